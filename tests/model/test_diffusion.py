"""The diffusion model: blocks, velocity, loss and gradients against float64 from the formulas, and how it generates."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.model import make_model, sample_loss_inputs
from lina_lab.model.diffusion import DiffusionInputs, DiffusionModel
from lina_lab.model.flow import integrate
from lina_lab.model.schedule import velocity_calls
from tests.conftest import relative_error
from tests.model import task_twins as twins
from tests.model.test_classifier import ATTENTIONS, images
from tests.model.test_lina import SMALL, disturb, seeded

CONFIG = replace(SMALL, task="diffusion", latent_size=(8, 4), patch_size=2, depth=2)
TEXT = replace(CONFIG, num_classes=None, text_dim=5, text_length=4)
LABEL, DROP = torch.tensor([0, 2, 1, 1, 2]), torch.tensor([True, False, False, True, False])
TOLERANCE = 1e-10
each_placement = pytest.mark.parametrize("placement", ["after", "before"])
each_attention = pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)


def double(config: LinaConfig) -> DiffusionModel:
    model = make_model(config).double()
    disturb(model)
    return model


def inputs_of(config: LinaConfig) -> DiffusionInputs:
    sampled = sample_loss_inputs(config, 5, seeded())
    return replace(sampled, sigma=sampled.sigma.double(), noise=sampled.noise.double(), drop=DROP)


@each_placement
@each_attention
def test_a_block_is_that_of_the_formulas(attention: AttentionConfig, placement: str) -> None:
    config = replace(CONFIG, attention=attention, norm_placement=placement)
    model = double(config)
    x = torch.randn(3, config.num_tokens, config.dim, generator=seeded(), dtype=torch.float64)
    condition = torch.randn(3, config.dim, generator=seeded(1), dtype=torch.float64)
    wanted = twins.adaln_block(model.state_dict(), "blocks.1", x, condition, attention, config)
    assert relative_error(model.blocks[1](x, None, condition), wanted) < TOLERANCE


@each_placement
@each_attention
def test_loss_and_gradients_are_those_of_the_formulas(attention: AttentionConfig, placement: str) -> None:
    config = replace(CONFIG, attention=attention, norm_placement=placement)
    model, latents, inputs = double(config), images(config), inputs_of(config)
    loss = model.loss_from_inputs(latents, inputs, label=LABEL)
    loss.backward()
    P = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    given = P["class_table.weight"][LABEL.masked_fill(DROP, 3)]
    wanted = twins.diffusion_loss(P, latents, inputs.sigma, inputs.noise, given, config)
    wanted.backward()
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=TOLERANCE)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert relative_error(parameter.grad, P[name].grad) < 1e-9, name


@each_placement
def test_the_loss_of_texts_is_that_of_the_formulas(placement: str) -> None:
    config = replace(TEXT, norm_placement=placement)
    model, latents, inputs = double(config), images(config), inputs_of(config)
    text = torch.randn(5, 3, 5, generator=seeded(8), dtype=torch.float64)
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0]]).bool()
    loss = model.loss_from_inputs(latents, inputs, text=text, present=present).detach()
    P = model.state_dict()
    given = twins.pooled(P, text, present & ~DROP.unsqueeze(1))
    assert float(loss) == pytest.approx(
        float(twins.diffusion_loss(P, latents, inputs.sigma, inputs.noise, given, config)), rel=TOLERANCE
    )


def test_the_order_of_states_that_know_their_positions_matters() -> None:
    model = double(TEXT)
    one, other = torch.randn(2, 5, generator=seeded(), dtype=torch.float64)
    first, second = torch.randn(2, 5, generator=seeded(1), dtype=torch.float64)
    texts = torch.stack([torch.stack([one + first, other + second]), torch.stack([other + first, one + second])])
    conditions = model.condition(text=texts).detach()
    assert relative_error(conditions[0], conditions[1]) > 0.01


def test_the_loss_of_a_fresh_model_is_that_of_predicting_zero() -> None:
    model, latents, inputs = make_model(CONFIG), images(CONFIG).float(), sample_loss_inputs(CONFIG, 5, seeded())
    loss = model.loss_from_inputs(latents, inputs, label=LABEL).detach()
    tokens = twins.patches(latents, 2)
    assert float(loss) == pytest.approx(float((inputs.noise - tokens).square().mean()), rel=1e-6)


@each_placement
def test_blocks_of_a_fresh_model_put_out_what_they_get(placement: str) -> None:
    model = make_model(replace(CONFIG, norm_placement=placement))
    x, condition = torch.randn(2, 8, 8, generator=seeded()), torch.randn(2, 8, generator=seeded(1))
    assert torch.equal(model.blocks(x, None, condition), x)


def test_validation_levels_are_one_in_each_equal_part_over_all_images() -> None:
    """The same whatever the model, and no condition is dropped."""
    frozen = DiffusionInputs.frozen(CONFIG, [20, 20, 10])
    sigma = torch.cat([inputs.sigma for inputs in frozen])
    assert (sigma.sort().values * 50).floor().tolist() == list(range(50))
    assert not torch.equal(sigma, sigma.sort().values)
    assert not any(inputs.drop.any() for inputs in frozen)
    again = DiffusionInputs.frozen(replace(CONFIG, dim=16, norm_placement="before"), [20, 20, 10])
    for one, two in zip(frozen, again, strict=True):
        assert all(torch.equal(value, getattr(two, name)) for name, value in vars(one).items())
    assert not torch.equal(frozen[0].noise, frozen[1].noise)


def generated(model: DiffusionModel, labels: list[int], seeds: list[int], **changes: Any) -> Tensor:
    own = [Generator().manual_seed(seed) for seed in seeds]
    arguments = {"flow_steps": 4, "guidance": 2.0} | changes
    return model.generate(label=torch.tensor(labels), generator=own, **arguments)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_an_image_does_not_depend_on_those_beside_it(solver: str) -> None:
    model = make_model(CONFIG)
    disturb(model)
    together = generated(model, [0, 1, 2], [5, 6, 7], solver=solver)
    assert together.shape == (3, 2, 8, 4)
    assert torch.allclose(together, generated(model, [2, 1, 0], [7, 6, 5], solver=solver).flip(0), atol=1e-4)
    assert torch.allclose(together[1:2], generated(model, [1], [6], solver=solver), atol=1e-4)
    assert torch.equal(together, generated(model, [0, 1, 2], [5, 6, 7], solver=solver, steps=64))
    with pytest.raises(ValueError, match="2 generators for 1 images"):
        generated(model, [1], [6, 7])


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_images_follow_the_guided_velocity_of_the_formulas(solver: str) -> None:
    """The ODE once more, by hand: guidance grows linearly from 1.5 at σ = 1 to 3 at σ = 0."""
    model, steps = double(CONFIG), 5
    noise = torch.randn(2, 8, 8, generator=seeded(4)).double()
    P = model.state_dict()
    conditions = [P["class_table.weight"][index] for index in (torch.tensor([0, 2]), torch.tensor([3, 3]))]

    def slope(x: Tensor, sigma: float) -> Tensor:
        timestep = torch.full((2,), 1000 * sigma, dtype=torch.float64)
        own, none = (twins.velocity(P, x, timestep, given, CONFIG) for given in conditions)
        return none + (3 - 1.5 * sigma) * (own - none)

    x, sigmas = noise, [1 - 0.999 * i / (steps - 1) for i in range(steps)] + [0.0]
    for now, then in pairwise(sigmas):
        first = slope(x, now)
        if solver == "heun" and then > 0:
            first = (first + slope(x + (then - now) * first, then)) / 2
        x = x + (then - now) * first
    found = model.generate(
        label=torch.tensor([0, 2]), flow_steps=steps, guidance=3.0, min_guidance=1.5, solver=solver, generator=seeded(4)
    )
    assert relative_error(twins.patches(found, 2), x) < TOLERANCE


def test_guidance_of_one_makes_no_second_pass() -> None:
    model, batches = make_model(CONFIG), []
    model.blocks.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    generated(model, [0, 1], [1, 2], guidance=1.0)
    assert batches == [2] * 4
    batches.clear()
    generated(model, [0, 1], [1, 2], guidance=1.0, min_guidance=2.0, solver="heun")
    assert batches == [4] * velocity_calls(4, "heun")


@pytest.mark.parametrize(
    ("config", "arguments", "sentence"),
    [
        (CONFIG, {"flow_steps": 0}, "flow_steps=0 must be at least 1"),
        (CONFIG, {"solver": "rk4"}, "solver=rk4 must be euler or heun"),
        (replace(CONFIG, condition_dropout=0.0), {"guidance": 2.0}, "condition_dropout is 0"),
        (replace(CONFIG, num_classes=None), {}, "this model takes no label: it is not conditioned on it"),
    ],
)
def test_what_cannot_be_generated_is_refused(config: LinaConfig, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_model(config).generate(label=torch.tensor([0]), generator=seeded(), **arguments)


def test_models_without_classes_generate() -> None:
    for config in (replace(CONFIG, num_classes=None), TEXT):
        assert make_model(config).generate(batch=2, flow_steps=2, generator=seeded()).shape == (2, 2, 8, 4)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_error_of_a_solver_falls_with_its_order(solver: str, order: int) -> None:
    """Of dx/dσ = x σ from 1 to 0, which ends at exp(-1/2)."""

    def velocity(x: Tensor, timestep: float) -> Tensor:
        return x * timestep / 1000

    ends = (integrate(velocity, torch.ones(1, dtype=torch.float64), steps, solver).item() for steps in (20, 40))
    coarse, fine = (abs(end - math.exp(-0.5)) for end in ends)
    assert coarse / fine == pytest.approx(2**order, rel=0.1)
