"""Tasks: what holds for each entry of the registry, in every variant."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F

from lina_lab.config import AttentionConfig, LinaConfig, TrialConfig, from_dict, to_dict
from lina_lab.config.tasks import TASKS, Task
from lina_lab.model import (
    count,
    initialize,
    load_model,
    make_model,
    sample_loss_inputs,
    sample_step_inputs,
    save_model,
    save_official,
)
from lina_lab.model.inputs import IMAGES_PER_GENERATOR
from lina_lab.model.layers import ZeroLinear
from lina_lab.training.sharding import shard
from lina_lab.util import registry
from lina_lab.util.registry import Provided
from tests.conftest import TINY
from tests.model.test_attention import every_attention
from tests.model.test_lina import SMALL, disturb, seeded

PLACEMENTS = ("after", "before")
every_task = pytest.mark.parametrize("task", list(TASKS.builtin))
one_stack = pytest.mark.parametrize(
    "task", [name for name, entry in TASKS.builtin.items() if not entry.condition_tokens]
)
each_placement = pytest.mark.parametrize("placement", PLACEMENTS)


def of_task(task: str, **changes: Any) -> LinaConfig:
    """A small model with a grid that every attention takes: 32 image tokens, 8 condition tokens if there are any."""
    return replace(SMALL, latent_size=(8, 4), task=task, **changes)


def batch(config: LinaConfig, images: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Latents and their condition."""
    latents = torch.randn(images, config.latent_channels, *config.latent_size, generator=seeded(3))
    if config.num_classes is not None:
        return latents, {"label": torch.arange(images) % config.num_classes}
    if config.text_dim is not None:
        return latents, {"text": torch.randn(images, config.text_length, config.text_dim, generator=seeded(4))}
    return latents, {}


def test_the_entries_and_their_costs_import_no_torch() -> None:
    code = (
        "import sys; from lina_lab.config.tasks import TASKS; [entry.load_costs() for entry in TASKS.values()]; "
        "print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@every_task
def test_every_entry_names_code_that_exists(task: str) -> None:
    entry = TASKS[task]
    assert entry.name == task
    assert entry.documentation
    assert all(
        load() is not None for load in (entry.load_model, entry.load_inputs, entry.load_module, entry.load_costs)
    )
    assert hasattr(entry.load_model(), "generate") == entry.generates


def _deep(model: LinaConfig) -> str | None:
    return "task=mine needs more" if model.depth < 4 else None


def test_a_task_of_a_package_is_a_value_of_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = replace(TASKS["classification"], name="mine", misfit=_deep)
    monkeypatch.setattr(TASKS, "_outside", None)
    monkeypatch.setattr(registry, "provided_by_packages", lambda group: (Provided("other 1.2", mine),))
    config = replace(SMALL, task="mine", depth=4)
    assert type(make_model(config)).__name__ == "Classifier"
    assert count.parameters(config) == count.parameters(replace(config, task="classification"))
    with pytest.raises(ValueError, match="task=mine needs more"):
        replace(SMALL, task="mine")


def test_an_entry_that_is_not_complete_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^model.task=new has no inputs and no costs$"):
        TASKS.register(Task(name="new", documentation="", model=nn.Module, inputs="", module=nn.Module, costs=None))
    assert "new" not in TASKS.builtin


@each_placement
@every_task
@every_attention
def test_every_variant_trains_in_every_task_and_at_both_placements(
    config: AttentionConfig, task: str, placement: str
) -> None:
    """Each trained parameter has a finite gradient, which data-parallel training needs, and each is counted."""
    made = of_task(task, attention=config, norm_placement=placement)
    model = make_model(made)
    disturb(model)
    latents, condition = batch(made, 4)
    model.loss_from_inputs(latents, sample_loss_inputs(made, 4, seeded()), **condition).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert count.parameters(made).total == sum(parameter.numel() for parameter in model.parameters())


@one_stack
def test_a_task_without_condition_tokens_has_one_stack_over_the_image_tokens(task: str) -> None:
    config = of_task(task, depth=3, condition_depth=5)
    assert config.condition_tokens == 0
    assert (len(config.decoder_blocks), config.encoder_blocks, config.condition_blocks) == (3, (), ())
    model = make_model(config)
    assert [block.attn.config for block in model.blocks] == [AttentionConfig()] * 3
    assert model.blocks[0].attn.gate.key_scale.shape == (2, config.num_tokens, 1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "classification", "num_classes": None}, "task=classification needs num_classes"),
        (
            {"task": "diffusion", "encoder_attention": AttentionConfig(gate="none", conv="none")},
            "encoder_attention must be null: task=diffusion has one stack of blocks",
        ),
        (
            {"task": "classification", "latent_size": (3, 3), "attention": AttentionConfig(gate="memory", conv="none")},
            "gate=memory needs a multiple of 4 tokens, not 9",
        ),
        (
            {"task": "diffusion", "depth": 3, "attention": (AttentionConfig(), AttentionConfig(conv="none"))},
            "attention is a pattern of 2, which does not fill its 3 blocks",
        ),
        ({"task": "generation", "depth": 3}, "depth=3 must be even"),
        ({"task": "segmentation"}, "Input should be 'generation', 'classification' or 'diffusion'"),
    ],
)
def test_a_model_that_a_task_cannot_have_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("task", "section", "sentence"),
    [
        ("classification", {"sampling": {"quality_images": 20}}, "sampling.quality_images must be 0: model.task=class"),
        ("classification", {"data": {"name": "shapes"}}, "data.name=shapes has no classes"),
        (
            "diffusion",
            {"start": {"source": "runs/a", "distill_velocity": 1.0}},
            "model.task=diffusion cannot be distilled: what is compared are LINA's vectors and velocities",
        ),
    ],
)
def test_a_trial_that_a_task_cannot_have_is_refused(task: str, section: dict[str, Any], sentence: str) -> None:
    trial = {**TINY, **{name: {**TINY.get(name, {}), **fields} for name, fields in section.items()}}
    with pytest.raises(ValueError, match=sentence):
        from_dict(TrialConfig, {**trial, "model": {**TINY["model"], "task": task}})


@every_task
def test_inputs_of_a_part_of_the_batch_are_those_of_the_whole(task: str) -> None:
    """Whatever ranks share the batch, and whatever the variant and the width."""
    config, images = of_task(task), IMAGES_PER_GENERATOR + 9
    other = of_task(task, dim=16, depth=4, attention=AttentionConfig(kind="softmax", gate="none", conv="none"))
    whole = sample_step_inputs(config, seed=3, step=7, images=range(images))
    parts = [
        sample_step_inputs(each, seed=3, step=7, images=part)
        for each, part in ((config, range(5)), (other, range(5, images)))
    ]
    joined = type(whole).joined(parts)
    assert len(whole) == images
    assert all(torch.equal(getattr(joined, name), value) for name, value in vars(whole).items())
    random = next(name for name in ("noise", "smoothing") if hasattr(whole, name))
    again = sample_step_inputs(config, seed=3, step=8, images=range(images))
    assert torch.equal(getattr(whole, random), getattr(again, random)) == (random == "smoothing")


@every_task
def test_first_weights_are_those_of_the_seed_and_last_layers_are_zero(task: str) -> None:
    one, two = make_model(of_task(task)), make_model(of_task(task))
    initialize(one, 5), initialize(two, 5)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    initialize(two, 6)
    zeros = [module for module in one.modules() if isinstance(module, ZeroLinear)]
    assert zeros
    assert all(not parameter.any() for module in zeros for parameter in module.parameters())
    changed = [name for name, value in one.named_parameters() if value.requires_grad and value.std() > 0]
    assert changed
    assert not any(torch.equal(one.get_parameter(name), two.get_parameter(name)) for name in changed)


def normed(x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=eps)


@each_placement
@every_task
def test_norms_are_where_the_field_says(task: str, placement: str) -> None:
    """A block whose attention and MLP put out their inputs tells where its norms are."""
    model = make_model(of_task(task, norm_placement=placement))
    block = next(module for module in model.modules() if hasattr(module, "norm_first"))
    block.attn, block.mlp = (nn.Identity() for _ in range(2))
    block.attn.forward = lambda x, *_: 3 * x
    x, condition = 5 + torch.randn(2, 4, 8, generator=seeded()), []
    if hasattr(block, "modulation"):
        condition = [torch.zeros(2, 8)]
        block.modulation.proj.bias.data.view(2, 3, 8)[:, 2] = 1  # scale 0, shift 0, gate 1
    eps = block.norm1.eps
    middle = x + (normed(3 * x, eps) if placement == "after" else 3 * normed(x, eps))
    wanted = middle + normed(middle, eps)
    assert torch.allclose(block(x, None, *condition), wanted, atol=1e-5)


def test_weights_of_norms_before_the_branches_have_no_layout_of_the_authors() -> None:
    with pytest.raises(ValueError, match=r"^model.norm_placement=before: the authors have norms after the branches"):
        save_official(make_model(of_task("generation", norm_placement="before")))
    with pytest.raises(ValueError, match=r"^a Classifier has no layout of the authors: they have model.task"):
        save_official(make_model(of_task("classification")))


@every_task
def test_a_model_of_any_task_is_saved_and_read(task: str, tmp_path: Path) -> None:
    model = make_model(of_task(task, norm_placement="before"))
    initialize(model, 4)
    save_model(model, tmp_path / "model")
    read = load_model(tmp_path / "model")
    assert type(read) is type(model)
    assert read.config == model.config
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in model.state_dict().items())
    assert from_dict(LinaConfig, to_dict(model.config)) == model.config


def gradients(model: nn.Module, latents: Tensor, condition: dict[str, Tensor]) -> list[Tensor]:
    disturb(model)
    inputs = sample_loss_inputs(model.config, len(latents), seeded())
    loss = model.loss_from_inputs(latents, inputs, **condition)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@one_stack
def test_checkpointing_changes_no_gradient_of_a_task(task: str) -> None:
    configs = (of_task(task), of_task(task, gradient_checkpointing=True))
    plain, saving = (gradients(make_model(config), *batch(config, 4)) for config in configs)
    assert all(torch.equal(a, b) for a, b in zip(plain, saving, strict=True))


@pytest.mark.system
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
@one_stack
def test_a_compiled_model_of_a_task_equals_the_plain_one(task: str) -> None:
    configs = [of_task(task, compile=compiled) for compiled in (False, True)]
    plain, fast = (gradients(make_model(config), *batch(config, 4)) for config in configs)
    assert all(torch.allclose(a, b, atol=1e-4, rtol=1e-3) for a, b in zip(plain, fast, strict=True))


@one_stack
def test_a_sharded_model_of_a_task_has_the_loss_of_a_whole_one(task: str, tmp_path: Path) -> None:
    config = of_task(task)
    latents, condition = batch(config, 4)
    inputs = sample_loss_inputs(config, 4, seeded())
    whole = make_model(config)
    disturb(whole)
    wanted = whole.loss_from_inputs(latents, inputs, **condition)
    distributed.init_process_group("gloo", store=distributed.FileStore(str(tmp_path / "store")), rank=0, world_size=1)
    try:
        shard(whole, init_device_mesh("cpu", (1,)))
        assert torch.allclose(whole.loss_from_inputs(latents, inputs, **condition), wanted)
        if task == "classification":
            assert whole.logits(latents).shape == (4, 3)
        else:
            assert whole.generate(**condition, flow_steps=2, generator=seeded()).isfinite().all()
    finally:
        distributed.destroy_process_group()
