"""Counts of classifiers and diffusion models against the module, PyTorch's own counter and published sizes."""

import math
from dataclasses import replace
from typing import Any

import pytest

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.config.presets import SIZES
from lina_lab.config.tasks import TASKS
from lina_lab.model import count, make_model, sample_loss_inputs
from tests.model.test_count import executed
from tests.model.test_lina import seeded
from tests.model.test_tasks import batch, of_task, one_stack

VARIED: dict[str, dict[str, Any]] = {
    "class": {},
    "unconditional": {"num_classes": None},
    "text": {"num_classes": None, "text_dim": 5, "text_length": 6},
    "rotary": {"dim": 64, "position": "rotary"},
    "patches": {"patch_size": 2, "norm_placement": "before"},
}
varied = pytest.mark.parametrize(
    ("task", "changes"),
    [
        pytest.param(task, changes, id=f"{task}, {name}")
        for task in TASKS.builtin
        for name, changes in VARIED.items()
        if not TASKS[task].condition_tokens and (task != "classification" or "num_classes" not in changes)
    ],
)


def made(task: str, changes: dict[str, Any]) -> LinaConfig:
    # The counts of linear attention leave the mean of the keys out, as the published ones do; softmax has none.
    return of_task(task, attention=AttentionConfig(kind="softmax", gate="none"), **changes)


@varied
def test_a_loss_of_a_task_executes_what_is_counted(task: str, changes: dict[str, Any]) -> None:
    config, images = made(task, changes), 3
    model, (latents, condition) = make_model(config), batch(config, images)
    inputs = sample_loss_inputs(config, images, seeded())
    found = executed(lambda: model.loss_from_inputs(latents, inputs, **condition))
    assert found == images * count.loss_operations(config).total


@varied
def test_a_training_step_of_a_task_executes_what_is_counted(task: str, changes: dict[str, Any]) -> None:
    """Within 3%, of which the mean of the keys is a part, which the published counts leave out."""
    config, images = replace(made(task, changes), attention=AttentionConfig()), 3
    model, (latents, condition) = make_model(config), batch(config, images)
    inputs = sample_loss_inputs(config, images, seeded())
    found = executed(lambda: model.loss_from_inputs(latents, inputs, **condition).backward())
    assert found == pytest.approx(images * count.training_operations(config).total, rel=0.03)


@varied
def test_parameters_of_a_task_are_those_of_the_model_s_parts(task: str, changes: dict[str, Any]) -> None:
    config = made(task, changes)
    model, found = make_model(config), count.parameters(config)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    last = [sizes[part] for part in ("head", "modulation", "out") if part in sizes]
    assert (found.encoder, found.head) == (sizes["embed"] + sizes["positions"], sum(last))
    assert found.decoder == sizes["blocks"] + sizes["norm"]
    assert found.total == sum(sizes.values())
    looked_up = [p for n, p in model.named_parameters() if n in ("class_table.weight", "text.none")]
    assert count.embedding_parameters(config) == sum(p.numel() for p in looked_up)


PUBLISHED = {
    "S": (12, 384, 6, 32.96),
    "B": (12, 768, 12, 130.51),
    "L": (24, 1024, 16, 458.10),
    "XL": (28, 1152, 16, 675.13),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_with_softmax_a_diffusion_model_has_the_parameters_of_dit(size: str) -> None:
    """DiT-S/2, B/2, L/2 and XL/2 (arXiv 2212.09748), but for the variance that DiT puts out beside."""
    depth, dim, heads, published = PUBLISHED[size]
    config = LinaConfig(
        task="diffusion",
        norm_placement="before",
        latent_channels=4,
        latent_size=(32, 32),
        patch_size=2,
        dim=dim,
        num_heads=heads,
        depth=depth,
        attention=AttentionConfig(kind="softmax", gate="none", conv="none"),
    )
    variance = 16 * (dim + 1)
    # DiT counts its fixed code of positions, 256 tokens, among the parameters.
    assert round((count.parameters(config).total + variance + 256 * dim) / 1e6, 2) == pytest.approx(published, abs=0.02)


@pytest.mark.parametrize("size", SIZES)
@one_stack
def test_every_preset_is_a_model_of_every_task(task: str, size: str) -> None:
    assert count.parameters(LinaConfig(**SIZES[size], task=task)).total > 0


def test_a_task_that_generates_nothing_costs_nothing_to_generate() -> None:
    assert count.generation_operations(of_task("classification")).total == 0
    assert math.isfinite(count.generation_operations(of_task("diffusion"), solver="heun").total)
