"""The whole model: what it may see, what is random in it, and what it makes."""

import math
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Generator, nn

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.model import LINA, initialize, sample_loss_inputs
from lina_lab.model.flow import NUM_TIMESTEPS, integrate, sample_logit_normal_timesteps
from lina_lab.model.masking import sample_mask_ratio, stratified_mask_ratios
from lina_lab.model.schedule import mean_mask_ratio, num_masked, step_schedule
from tests.model.test_attention import every_attention

SMALL = LinaConfig(
    latent_channels=2, latent_size=(6, 4), dim=8, num_heads=2, condition_depth=1, depth=2, flow_depth=1, num_classes=3
)


def small(attention: AttentionConfig) -> LinaConfig:
    """With a grid that every attention takes: 32 and 8 tokens."""
    return replace(SMALL, latent_size=(8, 4), attention=attention)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def disturb(model: nn.Module) -> None:
    """Give every parameter some value: a fresh flow head puts out zeros whatever it is fed."""
    generator = seeded(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)


@every_attention
def test_each_trained_parameter_gets_a_finite_gradient(config: AttentionConfig) -> None:
    model = LINA(small(config))
    disturb(model)
    latents = torch.randn(8, 2, 8, 4, generator=seeded())
    model.loss(latents, label=torch.arange(8) % 3, generator=seeded()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_frozen_are_the_constant_vector_the_class_norm_and_what_nothing_uses() -> None:
    frozen = {name.rsplit(".", 1)[0] for name, p in LINA(SMALL).named_parameters() if not p.requires_grad}
    assert frozen == {
        "class_embedding.norm",
        "condition_encoder.patch_embed",
        "condition_encoder.time_zero.mlp.0",
        "condition_encoder.time_zero.mlp.2",
        "condition_encoder.time_zero.norm",
    }


def test_what_masked_tokens_hold_cannot_reach_z() -> None:
    model = LINA(SMALL)
    disturb(model)
    visible = torch.tensor([[3, 7, 20], [1, 0, 5]])
    latents = torch.randn(2, 2, 24, generator=seeded())
    hidden = torch.ones(2, 24, dtype=torch.bool).scatter(1, visible, False)
    others = latents.masked_fill(hidden.unsqueeze(1), 1e3)
    c = model.condition(label=torch.tensor([0, 1]))
    first, second = (model.encode(x.reshape(2, 2, 6, 4), c, visible) for x in (latents, others))
    assert torch.equal(first, second)
    seen = latents.masked_fill(~hidden.unsqueeze(1), 1e3)
    assert not torch.allclose(first, model.encode(seen.reshape(2, 2, 6, 4), c, visible))


def test_z_of_nothing_visible_is_defined() -> None:
    model = LINA(SMALL)
    z = model.encode(torch.zeros(1, 2, 6, 4), model.condition(batch=1), torch.zeros(1, 0, dtype=torch.long))
    assert z.shape == (1, 24, 8)
    assert z.isfinite().all()


def test_order_of_the_visible_tokens_does_not_matter() -> None:
    model = LINA(SMALL)
    c, latents = model.condition(label=torch.tensor([2])), torch.randn(1, 2, 6, 4, generator=seeded())
    one, two = (model.encode(latents, c, torch.tensor([ids])) for ids in ([5, 9, 2], [2, 5, 9]))
    assert torch.allclose(one, two, atol=1e-6)


def test_loss_of_a_fresh_model_is_that_of_predicting_zero() -> None:
    """The flow head's last layer starts at zero, so the first loss is the mean square of noise minus token."""
    model, latents = LINA(SMALL), torch.randn(16, 2, 6, 4, generator=seeded())
    draws = sample_loss_inputs(SMALL, 16, seeded())
    tokens = latents.flatten(2).mT.gather(1, draws.masked_ids.unsqueeze(-1).expand(-1, -1, 2))
    assert model.loss_from_inputs(latents, draws).item() == pytest.approx((draws.noise - tokens).square().mean().item())


@pytest.mark.parametrize("dim", [8, 16])
@every_attention
def test_draws_are_common_to_all_variants_and_sizes(config: AttentionConfig, dim: int) -> None:
    ours = sample_loss_inputs(replace(small(config), dim=dim), 4, seeded(5))
    reference = sample_loss_inputs(small(AttentionConfig()), 4, seeded(5))
    assert all(torch.equal(getattr(ours, name), getattr(reference, name)) for name in vars(ours))


@every_attention
def test_first_weights_are_common_to_all_variants(config: AttentionConfig) -> None:
    model = LINA(small(config))
    reference = LINA(small(AttentionConfig(conv_kernel=config.conv_kernel)))
    initialize(model, 7), initialize(reference, 7)
    ours, theirs = model.state_dict(), reference.state_dict()
    common = {name for name in ours.keys() & theirs.keys() if ".gate." not in name}
    own = (".core.", ".gate.", ".conv.", ".qk_norm.", ".head_norm.")
    assert all(any(part in name for part in own) for name in ours.keys() - common)
    assert all(torch.equal(ours[name], theirs[name]) for name in common)


def test_seeds_and_blocks_have_other_weights() -> None:
    one, two = LINA(SMALL), LINA(SMALL)
    first, second = one.backbone.encoder[0], one.backbone.decoder[0]
    assert not torch.equal(first.attn.qkv.weight, second.attn.qkv.weight)
    initialize(one, 0), initialize(two, 1)
    assert not torch.equal(one.backbone.embed.weight, two.backbone.embed.weight)


def test_first_weights_are_as_published() -> None:
    model = LINA(replace(SMALL, dim=256, flow_dim=64))
    for token in (model.condition_encoder.start_token, model.backbone.mask_token):
        assert token.std().item() == pytest.approx(0.02, rel=0.2)
    zero = [model.flow_head.head, model.flow_head.modulation.proj, model.flow_head.blocks[0].modulation.proj]
    assert all(parameter.abs().sum() == 0 for module in zero for parameter in module.parameters())
    bound = 1 / math.sqrt(256)
    weight = model.backbone.decoder[0].attn.qkv.weight
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_training_and_generation_leave_the_global_generator_alone() -> None:
    model, latents = LINA(SMALL), torch.zeros(2, 2, 6, 4)
    before = torch.get_rng_state()
    model.loss(latents, label=torch.zeros(2, dtype=torch.long), generator=seeded())
    model.generate(label=torch.zeros(2, dtype=torch.long), steps=3, flow_steps=2, generator=seeded())
    initialize(model, 3)
    assert torch.equal(before, torch.get_rng_state())


def test_hidden_classes_are_those_drawn() -> None:
    model = LINA(SMALL)
    disturb(model)
    latents, label = torch.randn(4, 2, 6, 4, generator=seeded()), torch.tensor([0, 1, 2, 0])
    draws = replace(sample_loss_inputs(SMALL, 4, seeded()), drop=torch.tensor([True, False, True, True]))
    hidden = model.loss_from_inputs(latents, draws, label=label)
    shown = replace(draws, drop=torch.zeros(4, dtype=torch.bool))
    assert torch.equal(hidden, model.loss_from_inputs(latents, shown, label=torch.tensor([3, 1, 3, 3])))
    assert not torch.equal(hidden, model.loss_from_inputs(latents, shown, label=label))


def test_mask_ratios_follow_the_published_law() -> None:
    generator = seeded()
    ratios = np.array([sample_mask_ratio(generator) for _ in range(4000)])
    assert ratios.min() >= 0.7
    assert ratios.max() <= 1.0
    # The mean of normal(1, 0.25) cut to [0.7, 1], a share of 0.385 of it.
    density = [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in (-1.2, 0.0)]
    expected = 1 + 0.25 * (density[0] - density[1]) / 0.38493
    assert ratios.mean() == pytest.approx(expected, abs=0.004)
    assert np.mean(stratified_mask_ratios(500)) == pytest.approx(expected, abs=1e-3)
    assert mean_mask_ratio() == pytest.approx(np.mean(stratified_mask_ratios(1000)), abs=1e-12)


def test_at_least_one_token_is_masked() -> None:
    assert num_masked(0.7, 64) == 45
    assert num_masked(1.0, 64) == 64
    assert num_masked(0.001, 64) == 1


def test_levels_follow_the_published_law() -> None:
    levels = sample_logit_normal_timesteps(torch.rand(200_000, generator=seeded()))
    assert levels.min() >= 1
    assert levels.max() <= NUM_TIMESTEPS
    normal = torch.logit((levels - 0.5) / NUM_TIMESTEPS)
    assert normal.mean().item() == pytest.approx(0, abs=0.01)
    assert normal.std().item() == pytest.approx(1, abs=0.01)
    assert sample_logit_normal_timesteps(torch.tensor([0.5])).tolist() == [501]
    low, high = sample_logit_normal_timesteps(torch.tensor([0.0, 1.0])).tolist()
    assert 1 <= low < 10
    assert NUM_TIMESTEPS - 10 < high <= NUM_TIMESTEPS


def test_integration_is_exact_for_a_constant_velocity() -> None:
    """Seen levels: 25 equal points from 1 to 0.001, then the step to 0."""
    told = []

    def velocity(x: torch.Tensor, timestep: float) -> torch.Tensor:
        told.append(timestep)
        return torch.full_like(x, 2.0)

    end = integrate(velocity, torch.ones(3), 25)
    assert torch.allclose(end, torch.full((3,), -1.0))
    assert np.allclose(told, np.linspace(1000, 1, 25))


@pytest.mark.parametrize("steps", [1, 2, 7, 24])
def test_the_schedule_writes_every_token_once(steps: int) -> None:
    known = step_schedule(24, steps)
    assert known[-1] == 24
    assert all(b > a for a, b in zip([0, *known], known, strict=False))
    assert len(known) <= steps


def test_the_schedule_is_the_cosine() -> None:
    assert 256 - round(256 * math.cos(math.pi / 4)) in step_schedule(256, 64)
    # Early steps would write nothing, and are left out.
    assert len(step_schedule(256, 256)) < 256


@pytest.mark.parametrize("steps", [1, 5, 24])
def test_same_generator_same_image(steps: int) -> None:
    model = LINA(SMALL)
    disturb(model)
    label = torch.tensor([0, 2])
    one, two, other = (
        model.generate(label=label, steps=steps, flow_steps=3, guidance=1.5, generator=seeded(s)) for s in (0, 0, 1)
    )
    assert one.shape == (2, 2, 6, 4)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_guidance_of_one_makes_no_second_pass_and_equals_it() -> None:
    model = LINA(SMALL)
    disturb(model)
    label, batches = torch.tensor([0, 2]), []
    handle = model.backbone.register_forward_hook(lambda _, __, z: batches.append(len(z)))
    plain = model.generate(label=label, steps=4, flow_steps=3, generator=seeded())
    assert set(batches) == {2}
    batches.clear()
    guided = model.generate(label=label, steps=4, flow_steps=3, guidance=1.0, min_guidance=1 + 1e-7, generator=seeded())
    assert batches == [4, 4, 4, 2]  # the last step's guidance is 1
    handle.remove()
    assert torch.allclose(plain, guided, atol=1e-4)


def test_guidance_grows_linearly_to_its_full_value() -> None:
    model, label = LINA(SMALL), torch.tensor([0])
    told = []
    original = LINA._guided

    def spy(self: LINA, z: torch.Tensor, guidance: float, *rest: Any) -> torch.Tensor:
        told.append(guidance)
        return original(self, z, guidance, *rest)

    with patch.object(LINA, "_guided", spy):
        model.generate(label=label, steps=5, flow_steps=1, guidance=3.0, min_guidance=1.0, generator=seeded())
        assert told == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0])
        told.clear()
        model.generate(label=label, steps=1, flow_steps=1, guidance=3.0, min_guidance=1.0, generator=seeded())
        assert told == [3.0]


def test_the_head_sees_the_tokens_of_the_step_only() -> None:
    model = LINA(SMALL)
    tokens: list[int] = []
    model.flow_head.embed.register_forward_hook(lambda _, inputs, __: tokens.append(inputs[0].shape[-2]))
    model.generate(label=torch.tensor([1]), steps=6, flow_steps=1, generator=seeded())
    assert sum(tokens) == 24


def test_an_unconditional_model_trains_and_generates() -> None:
    model = LINA(replace(SMALL, num_classes=None))
    assert model.loss(torch.zeros(2, 2, 6, 4), generator=seeded()).isfinite()
    assert model.generate(batch=3, steps=2, flow_steps=2, generator=seeded()).shape == (3, 2, 6, 4)
    with pytest.raises(ValueError, match="not conditioned on it"):
        model.condition(label=torch.tensor([0]))
    with pytest.raises(ValueError, match="guidance needs a model with a condition"):
        model.generate(batch=3, steps=2, guidance=2.0, generator=seeded())


def test_a_model_that_never_dropped_its_condition_cannot_be_guided() -> None:
    model = LINA(replace(SMALL, condition_dropout=0.0))
    assert model.generate(label=torch.tensor([0]), steps=1, flow_steps=1, generator=seeded()).isfinite().all()
    for scales in ({"guidance": 2.0}, {"min_guidance": 2.0}):
        with pytest.raises(ValueError, match="condition_dropout is 0"):
            model.generate(label=torch.tensor([0]), steps=1, flow_steps=1, generator=seeded(), **scales)


@pytest.mark.parametrize(("steps", "flow_steps"), [(0, 1), (25, 1), (2, 0)])
def test_step_counts_out_of_range_are_refused(steps: int, flow_steps: int) -> None:
    with pytest.raises(ValueError, match="steps="):
        LINA(SMALL).generate(label=torch.tensor([0]), steps=steps, flow_steps=flow_steps, generator=seeded())


@pytest.mark.parametrize(("size", "patch"), [((6, 4), 2), ((3, 5), 1), ((9, 6), 3)])
def test_any_geometry(size: tuple[int, int], patch: int) -> None:
    model = LINA(replace(SMALL, latent_size=size, patch_size=patch))
    label = torch.tensor([0, 1])
    assert model.loss(torch.zeros(2, 2, *size), label=label, generator=seeded()).isfinite()
    assert model.generate(label=label, steps=2, flow_steps=2, generator=seeded()).shape == (2, 2, *size)
