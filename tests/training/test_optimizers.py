"""Optimizers by name: what each does to which parameter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lina_lab.config import (
    CommandConfig,
    OptimizerConfig,
    ResourcesConfig,
    StudyConfig,
    TrialConfig,
    from_dict,
    to_dict,
)
from lina_lab.config.optimizers import OPTIMIZERS, OptimizerEntry
from lina_lab.model import LINA
from lina_lab.study.grid import make_plan
from lina_lab.study.preflight import problems
from lina_lab.training.module import LinaModule
from lina_lab.training.muon import MuonAdamW
from lina_lab.training.optimizers import adamw, block_matrices, make_optimizer
from lina_lab.training.trial import run_trial
from tests.conftest import STUDY

Tiny = Callable[..., TrialConfig]


def newton_schulz(gradient: Tensor, steps: int = 5) -> Tensor:
    """Muon's iteration in float64, written from its definition on the singular values: s <- a s + b s^3 + c s^5."""
    left, values, right = torch.linalg.svd(gradient.double(), full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left @ torch.diag(values) @ right


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)])
def test_muon_steps_along_the_orthogonalized_momentum(shape: tuple[int, int]) -> None:
    """Three steps against the same in float64; torch iterates in bfloat16, which has 8 bits."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, generator=generator))
    expected, momentum = weight.detach().double(), torch.zeros(shape, dtype=torch.float64)
    group = {"params": [weight], "weight_decay": 0.1, "matrices": True}
    optimizer = MuonAdamW([group], lr=0.02, betas=(0.9, 0.95), momentum=0.9, ns_steps=5)
    for _ in range(3):
        gradient, before = torch.randn(shape, generator=generator), expected
        weight.grad = gradient
        optimizer.step()
        momentum = 0.9 * momentum + 0.1 * gradient.double()
        update = newton_schulz(0.9 * momentum + 0.1 * gradient.double())
        expected = before * (1 - 0.02 * 0.1) - 0.02 * 0.2 * max(shape) ** 0.5 * update
        moved = weight.detach().double() - before * (1 - 0.02 * 0.1)
        wanted = expected - before * (1 - 0.02 * 0.1)
        assert ((moved - wanted).norm() / wanted.norm()) < 0.05
        expected = weight.detach().double()


def test_the_update_of_muon_is_as_large_as_that_of_adamw() -> None:
    """A fifth of the rate, root mean square: what AdamW's updates have, by arXiv 2502.16982."""
    weight = nn.Parameter(torch.zeros(64, 32))
    weight.grad = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    group = {"params": [weight], "weight_decay": 0.0, "matrices": True}
    MuonAdamW([group], lr=1.0, betas=(0.9, 0.95), momentum=0.95, ns_steps=5).step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.2 * 64**0.5 * (32 / (64 * 32)) ** 0.5, rel=0.3)


def test_muon_has_the_matrices_of_the_blocks_and_no_other_parameter(tiny: Tiny) -> None:
    model = LINA(tiny().model)
    chosen = block_matrices(model)
    names = {name for name, parameter in model.named_parameters() if id(parameter) in chosen}
    assert {
        "condition_encoder.blocks.0.attn.qkv.weight",
        "backbone.encoder.0.attn.proj.weight",
        "backbone.decoder.0.mlp.fc1.weight",
        "flow_head.blocks.0.modulation.proj.weight",
        "flow_head.blocks.0.mlp.fc2.weight",
    } <= names
    outside = ("class_embedding", "backbone.embed", "flow_head.embed", "flow_head.head", "flow_head.time_mlp")
    assert not any(name.startswith(outside) for name in names)
    assert all(model.get_parameter(name).ndim == 2 for name in names)
    optimizer = make_optimizer(model, tiny(optimizer={"name": "muon"}).optimizer)
    assert {id(p) for g in optimizer.param_groups if g["matrices"] for p in g["params"]} == chosen
    assert {group["weight_decay"] for group in optimizer.param_groups if not group["matrices"]} == {0.0, 0.02}


def test_what_muon_leaves_is_stepped_as_by_adamw_alone(tiny: Tiny) -> None:
    """From equal gradients, bit for bit; the matrices are not."""
    weights = {}
    for name in ("adamw", "muon"):
        model = LINA(tiny().model)
        optimizer = make_optimizer(model, tiny(optimizer={"name": name}).optimizer)
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        weights[name] = dict(model.named_parameters())
        matrices = block_matrices(model)
    for name, parameter in weights["muon"].items():
        same = torch.equal(parameter, weights["adamw"][name])
        assert same is (id(parameter) not in matrices), name


def test_options_of_muon_are_its_own(tiny: Tiny) -> None:
    model, options = LINA(tiny().model), {"momentum": 0.8, "ns_steps": 3}
    optimizer = make_optimizer(model, tiny(optimizer={"name": "muon", "options": options}).optimizer)
    assert {(group.get("momentum"), group.get("ns_steps")) for group in optimizer.param_groups} == {
        (0.8, 3),
        (None,) * 2,
    }
    with pytest.raises(
        ValueError, match=r"options.nesterov is not an option of name=muon, which has momentum, ns_steps$"
    ):
        tiny(optimizer={"name": "muon", "options": {"nesterov": False}})
    wrong = tiny(optimizer={"name": "muon", "options": {"momentum": "much"}}).optimizer
    with pytest.raises(ValueError, match=r"^optimizer.name=muon cannot be made: .*"):
        make_optimizer(model, wrong)


def test_adamw_is_torch_s_with_the_groups_that_it_had(tiny: Tiny) -> None:
    optimizer = make_optimizer(LINA(tiny().model), tiny().optimizer)
    assert type(optimizer) is torch.optim.AdamW
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.0]
    assert not any("matrices" in group for group in optimizer.param_groups)


def test_muon_is_refused_under_mup(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"mup needs an optimizer that steps as Adam does, not muon$"):
        tiny(model={"parametrization": "mup", "base_dim": 4}, optimizer={"name": "muon"})


def test_muon_is_refused_on_sharded_weights_before_anything_is_trained(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^optimizer.name=muon needs whole matrices, and study.resources.strategy=fsdp"
    ):
        run_trial(tiny(optimizer={"name": "muon"}), tmp_path, resources=ResourcesConfig(devices=2, strategy="fsdp"))
    assert not list(tmp_path.iterdir())
    resources = {"devices": 2, "strategy": "fsdp", "accelerator": "cpu"}
    study = from_dict(StudyConfig, {**STUDY, "name": "sharded", "resources": resources})
    plan = make_plan(study, to_dict(tiny(optimizer={"name": "muon"})))
    found = [problem for problem in problems(plan, CommandConfig()) if "muon" in problem]
    assert len(found) == 1
    assert found[0].endswith("shards them: take strategy=ddp")


def test_an_optimizer_that_does_not_know_a_parameter_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def some(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
        return adamw(groups[:1], config)

    monkeypatch.setitem(OPTIMIZERS.builtin, "some", OptimizerEntry(name="some", documentation="", maker=some))
    sentence = (
        r"^optimizer.name=some does not know the parameter [\w.]+norm[\w.]+ and \d+ more, which is to be trained$"
    )
    with pytest.raises(ValueError, match=sentence):
        LinaModule(tiny(optimizer={"name": "some"})).configure_optimizers()


def test_muon_trains(tiny: Tiny, tmp_path: Path) -> None:
    trainer = {"max_images": 1600, "val_every_images": 1600}
    start, end = list[float](), list[float]()

    def report(progress: Any) -> None:
        (start if progress.images <= 320 else end).append(progress.loss)

    run_trial(tiny(trainer=trainer, optimizer={"name": "muon", "lr": 4e-3}), tmp_path, report=report)
    assert sum(end[-20:]) / 20 < 0.8 * sum(start[:20]) / 20


def test_the_help_lists_both_optimizers() -> None:
    assert [*OPTIMIZERS.builtin] == ["adamw", "muon"]
    with pytest.raises(ValueError, match=r"name='sgd': input should be 'adamw' or 'muon'"):
        from_dict(OptimizerConfig, {"name": "sgd"})
