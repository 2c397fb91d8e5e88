"""Counts against the published figures, the module, and PyTorch's own counter."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from lina_lab.commands.count import COMMAND
from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.config.presets import SIZES
from lina_lab.model import LINA, Attention, count, count_lina, count_parts, sample_loss_inputs
from lina_lab.model.positions import axial_rotation
from lina_lab.model.schedule import step_schedule
from lina_lab.variants import ROTATIONS
from tests.model.test_attention import every_attention
from tests.model.test_lina import SMALL, seeded, small
from tests.model.test_placements import PLAIN, ROTARY, SOFTMAX, TEXT

PUBLISHED = {"width768": (362.7, 363.2), "width1024": (644.1, 644.7), "width1536": (1447.4, 1448.2)}


def convolution_backward(grad: list[int], x: list[int], weight: list[int], *rest: Any, **_: Any) -> int:
    """PyTorch's own formula takes a grouped convolution's kernel gradient for that of a full one."""
    wanted = sum(rest[-1][:2])
    return count.FLOPS_PER_MULTIPLY_ADD * wanted * math.prod(grad) * math.prod(weight[1:])


CORRECTIONS = {
    torch.ops.aten.convolution_backward: convolution_backward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, out_shape=None, **__: sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, out_shape=None, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""What PyTorch's counter does not know, or counts wrong."""


@pytest.fixture
def means_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published figures leave the mean of the keys out; here it is a column of a product, T D more."""
    published = count.attention_operations

    def with_means(config: LinaConfig, attention: AttentionConfig, tokens: int) -> int:
        mean = tokens * config.dim if attention.kind == "linear" else 0
        return published(config, attention, tokens) + mean

    for module in (count, count_parts):
        monkeypatch.setattr(module, "attention_operations", with_means)


def unread_operations(config: LinaConfig, read: int) -> int:
    """Multiply-adds of an image's forward pass that are counted and left out: in the last block of the decoder, output
    projection and MLP of the tokens of which no z is read."""
    unread = config.condition_tokens + config.num_tokens - read
    return unread * (1 + 2 * count.MLP_RATIO) * config.dim**2


def time_zero_operations(config: LinaConfig) -> int:
    """Multiply-adds of the condition grid's constant vector, which is computed once for a batch."""
    return count_parts.SINUSOID * config.dim + config.dim**2 if config.position == "sincos" else 0


VARIED = {
    "class": SMALL,
    "unconditional": replace(SMALL, num_classes=None),
    "text": TEXT,
    "rotary": ROTARY,
    "pattern": replace(SMALL, depth=4, attention=(PLAIN, SOFTMAX)),
    "patches": replace(SMALL, patch_size=2, flow_dim=12, condition_depth=2),
}
varied = pytest.mark.parametrize("config", VARIED.values(), ids=VARIED)


def executed(action: Callable[[], Any]) -> int:
    """Multiply-adds that PyTorch's counter sees."""
    with FlopCounterMode(display=False, custom_mapping=CORRECTIONS) as counter:
        action()
    return counter.get_total_flops() // count.FLOPS_PER_MULTIPLY_ADD


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters_are_the_published_ones(size: str) -> None:
    for attention, published in zip((PLAIN, AttentionConfig()), PUBLISHED[size], strict=True):
        config = LinaConfig(**SIZES[size], attention=attention)
        assert round(count.parameters(config).total / 1e6, 1) == published


def test_operations_of_the_headline_are_the_published_ones() -> None:
    config = LinaConfig(latent_size=(64, 64), dim=1536, num_heads=16)
    linear = count.attention_operations(config, AttentionConfig(), 5120)
    softmax = count.attention_operations(config, SOFTMAX, 5120)
    assert (linear / 1e9, softmax / 1e9) == (49.99348224, 128.84901888)
    assert round(1 - linear / softmax, 2) == 0.61


@varied
def test_parameters_are_the_module_s(config: LinaConfig) -> None:
    model, found = LINA(config), count.parameters(config)
    prefix = [m for m in (model.class_embedding, model.text_embedding) if m is not None]
    backbone = model.backbone
    parts = {
        "condition": [model.condition_encoder, *prefix],
        "encoder": [backbone.embed, backbone.encoder],
        "decoder": [backbone.decoder, backbone.norm],
        "head": [model.flow_head],
    }
    counted = {name: sum(p.numel() for m in modules for p in m.parameters()) for name, modules in parts.items()}
    counted["encoder"] += backbone.mask_token.numel()
    assert counted == vars(found)
    assert found.total == sum(p.numel() for p in model.parameters())


@every_attention
def test_an_attention_counts_right(means_counted: None, config: AttentionConfig) -> None:
    model = small(config)
    tokens = model.num_tokens + model.condition_tokens
    module = Attention(model.dim, model.num_heads, config, model.grid, model.condition_tokens)
    assert count.attention_parameters(model, config) == sum(p.numel() for p in module.parameters())
    x = torch.randn(1, tokens, model.dim, generator=seeded())
    assert executed(lambda: module(x)) == count.attention_operations(model, config, tokens)


@pytest.mark.parametrize("kind", ["linear", "blocks"])
def test_a_rotation_executes_nothing_that_is_counted(kind: str) -> None:
    """Whatever it rotates: a product for the numerator and one for the normalizer are as much as one for both."""
    x, found = torch.randn(1, 24, 64, generator=seeded()), set()
    for rotate in ROTATIONS.builtin:
        attention = AttentionConfig(kind=kind, conv="none", gate="none", rotate=rotate, blocks=4)
        module = Attention(64, 2, attention, (4, 6), 0)
        found |= {executed(lambda module=module: module(x, axial_rotation((4, 6), 32)))}
    assert len(found) == 1


@varied
def test_a_loss_executes_what_is_counted(means_counted: None, config: LinaConfig) -> None:
    model, images = LINA(config), 3
    draws = sample_loss_inputs(config, images, seeded(), mask_ratio=0.75)
    latents, inputs = torch.zeros(images, 2, *config.latent_size), condition(config, images)
    found = executed(lambda: model.loss_from_inputs(latents, draws, **inputs))
    once, unread = time_zero_operations(config), unread_operations(config, draws.masked_ids.shape[1])
    assert found == images * (count.loss_operations(config, 0.75).total - unread) + once


@varied
def test_a_training_step_executes_what_is_counted(config: LinaConfig) -> None:
    """Within 3%: no gradient is taken of the first layers' inputs."""
    model, images = LINA(config), 8
    draws = sample_loss_inputs(config, images, seeded(), mask_ratio=0.75)
    latents, inputs = torch.zeros(images, 2, *config.latent_size), condition(config, images)
    found = executed(lambda: model.loss_from_inputs(latents, draws, **inputs).backward())
    unread = (1 + count_parts.BACKWARD) * unread_operations(config, draws.masked_ids.shape[1])
    assert found == pytest.approx(images * (count.training_operations(config, 0.75).total - unread), rel=0.03)


@pytest.mark.parametrize(
    ("config", "guided"),
    # Guidance without a condition is refused: see test_lina.
    [(config, guided) for config in VARIED.values() for guided in (False, True) if config.conditional or not guided],
)
def test_generation_executes_what_is_counted_and_nothing_else(
    means_counted: None, config: LinaConfig, guided: bool
) -> None:
    model, images = LINA(config), 2
    inputs = condition(config, images) or {"batch": images}
    scale = 2.0 if guided else 1.0

    def generate() -> None:
        model.generate(**inputs, steps=3, flow_steps=4, guidance=scale, generator=seeded())

    counts = count.generation_operations(config, steps=3, flow_steps=4, guided=guided)
    # The levels' codes are common to a batch and its steps, the constant vector to all.
    levels = 4 * count_lina._head_operations(config)[1]
    passes = 2 if guided else 1
    known = [0, *step_schedule(config.num_tokens, 3)]
    left_out = passes * sum(unread_operations(config, after - before) for before, after in pairwise(known))
    if guided:
        # The first step's guidance is 1.
        for_z, _, for_token = count_lina._head_operations(config)
        left_out += sum(count_lina._encode_operations(config, 0)) - unread_operations(config, known[1])
        left_out += known[1] * (for_z + 4 * for_token)
    assert (
        executed(generate)
        == images * (counts.total - levels - left_out) + levels + time_zero_operations(config) * passes
    )


def condition(config: LinaConfig, images: int) -> dict[str, torch.Tensor]:
    if config.num_classes is not None:
        return {"label": torch.zeros(images, dtype=torch.long)}
    if config.text_dim is not None:
        return {"text": torch.zeros(images, config.text_length, config.text_dim)}
    return {}


@pytest.mark.parametrize("size", SIZES)
def test_every_preset_is_a_model(size: str) -> None:
    assert count.parameters(LinaConfig(**SIZES[size])).total > 0


def test_presets_have_the_paper_s_sizes_and_a_ladder() -> None:
    assert [size for size in SIZES if not size.startswith("cpu")] == list(PUBLISHED)
    ladder = [count.parameters(LinaConfig(**SIZES[size])).total for size in SIZES if size.startswith("cpu")]
    assert len(ladder) >= 5
    assert ladder == sorted(ladder)


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMAND.main(["size=width1536", "model.latent_size=[64,64]"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines()[2:7]}
    assert list(rows) == ["condition", "encoder", "decoder", "head", "total"]
    for parameters, *operations in rows.values():
        assert float(parameters) > 0
        for multiply_adds, flops in zip(operations[::2], operations[1::2], strict=True):
            assert float(flops) == pytest.approx(2 * float(multiply_adds), abs=0.002)
    config = LinaConfig(**SIZES["width1536"], latent_size=(64, 64))
    assert float(rows["total"][0]) == round(count.parameters(config).total / 1e6, 3)
    assert float(rows["total"][3]) == round(count.training_operations(config).total / 1e9, 3)
    assert "One attention of the decoder, 5,120 tokens: 49.99 GMAC." in printed


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["size=huge"], "size=huge is not a preset; they are width768"),
        (["model.dim=10"], "model: dim=10 is not a multiple of num_heads=12"),
        (["model.attention.gat=kv"], "model.attention.gat is not a field"),
        (["sise=1"], "sise is not a field"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    assert COMMAND.main(arguments) == 2
    assert part in capsys.readouterr().err
