"""Distillation: the terms of the loss by hand, who learns from whom, and what a distilled trial leaves."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator

from lina_lab.config import AttentionConfig, LinaConfig, StartConfig, TrialConfig
from lina_lab.config.teacher import teacher_misfit
from lina_lab.model import LINA, LossInputs, initialize, sample_loss_inputs
from lina_lab.model.lina import Prediction
from lina_lab.training.distillation import FLOW, VELOCITY, Distillation, Z, velocity_distance, z_distance

Tiny = Callable[..., TrialConfig]
BOTH = StartConfig(source="elsewhere", distill_z=0.5, distill_velocity=2.0)
SOFTMAX = AttentionConfig(kind="softmax", conv="none", gate="none")


def model_of(config: LinaConfig, seed: int) -> LINA:
    """A model none of whose layers is still zero."""
    model = LINA(config)
    initialize(model, seed)
    generator = Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def batch_of(config: LinaConfig) -> tuple[torch.Tensor, LossInputs, dict[str, torch.Tensor]]:
    generator = Generator().manual_seed(3)
    inputs = sample_loss_inputs(config, 6, generator)
    latents = torch.randn(6, config.latent_channels, *config.latent_size, generator=generator)
    return latents, inputs, {"label": torch.arange(6)}


def test_the_distance_of_z_is_relative_to_the_variance_of_each_token_of_the_teacher() -> None:
    own = torch.tensor([[[2.0, 3.0], [0.0, 0.0]]], dtype=torch.float64)
    its = torch.tensor([[[1.0, 3.0], [0.0, 4.0]]], dtype=torch.float64)
    none = torch.zeros(1, 1, 2, 1)
    # Tokens: (1/2) / 1 and (16/2) / 4.
    assert z_distance(Prediction(own, none, none), Prediction(its, none, none)).item() == (0.5 + 2.0) / 2


def test_the_distance_of_the_velocity_is_a_mean_over_all_its_numbers() -> None:
    own, its = torch.tensor([1.0, 2.0, 4.0, 0.0]), torch.tensor([0.0, 2.0, 1.0, 0.0])
    shape, z = (1, 1, 2, 2), torch.zeros(1, 2, 2)
    one, other = (Prediction(z, v.double().reshape(shape), v.double().reshape(shape)) for v in (own, its))
    assert velocity_distance(one, other).item() == (1 + 0 + 9 + 0) / 4


@pytest.mark.parametrize("distance", [z_distance, velocity_distance])
def test_distances_are_computed_in_float32_where_models_compute_in_bfloat16(
    distance: Callable[[Prediction, Prediction], torch.Tensor], generator: Generator
) -> None:
    def prediction() -> Prediction:
        z, velocity = (torch.randn(shape, generator=generator) for shape in ((3, 4, 8), (2, 3, 4, 5)))
        return Prediction(z.bfloat16(), velocity.bfloat16(), velocity)

    one, other = prediction(), prediction()
    wide = (Prediction(p.z.double(), p.velocity.double(), p.target) for p in (one, other))
    assert distance(one, other).item() == pytest.approx(distance(*wide).item(), rel=1e-6)


@pytest.mark.parametrize(("z", "velocity"), [(0.5, 2.0), (0.5, 0.0), (0.0, 2.0)])
def test_the_loss_is_the_flow_loss_and_the_weighted_terms(tiny: Tiny, z: float, velocity: float) -> None:
    config = tiny().model
    student, teacher = model_of(config, 1), model_of(replace(config, attention=SOFTMAX), 2)
    latents, inputs, condition = batch_of(config)
    start = replace(BOTH, distill_z=z, distill_velocity=velocity)
    loss, terms = Distillation(start, teacher, student).loss(student, latents, inputs, condition)
    own, its = (model.predict(latents, inputs, **condition) for model in (student, teacher))
    assert terms[FLOW] == student.loss_from_inputs(latents, inputs, **condition)
    expected = {FLOW: own.flow_loss.item()}
    if z:
        spread = its.z - its.z.mean(-1, keepdim=True)
        expected[Z] = ((own.z - its.z).square().mean(-1) / spread.square().mean(-1)).mean().item()
    if velocity:
        expected[VELOCITY] = (own.velocity - its.velocity).square().mean().item()
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)
    total = expected[FLOW] + z * expected.get(Z, 0) + velocity * expected.get(VELOCITY, 0)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert all(term > 0.01 for term in expected.values())


def test_a_teacher_with_the_student_s_weights_adds_nothing(tiny: Tiny) -> None:
    config = tiny().model
    student, teacher = model_of(config, 1), model_of(config, 1)
    latents, inputs, condition = batch_of(config)
    loss, terms = Distillation(BOTH, teacher, student).loss(student, latents, inputs, condition)
    assert (terms[Z], terms[VELOCITY]) == (0, 0)
    assert loss == student.loss_from_inputs(latents, inputs, **condition)


def test_the_loss_from_inputs_is_that_of_the_prediction(tiny: Tiny) -> None:
    config = tiny().model
    model, (latents, inputs, condition) = model_of(config, 1), batch_of(config)
    prediction = model.predict(latents, inputs, **condition)
    assert model.loss_from_inputs(latents, inputs, **condition) == prediction.flow_loss
    assert prediction.z.shape == (*inputs.masked_ids.shape, config.dim)
    assert prediction.velocity.shape == prediction.target.shape == inputs.noise.shape


def test_the_student_alone_learns(tiny: Tiny) -> None:
    config = tiny().model
    student, teacher = model_of(config, 1), model_of(replace(config, attention=SOFTMAX), 2).train()
    before = deepcopy(teacher.state_dict())
    distillation = Distillation(BOTH, teacher, student)
    plain, (latents, inputs, condition) = deepcopy(student), batch_of(config)
    loss, _ = distillation.loss(student, latents, inputs, condition)
    loss.backward()  # type: ignore[no-untyped-call]
    plain.loss_from_inputs(latents, inputs, **condition).backward()  # type: ignore[no-untyped-call]
    gradients = dict(student.named_parameters())
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            assert not torch.equal(gradients[name].grad, parameter.grad), name  # type: ignore[arg-type]
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_batch_in_parts_has_the_terms_of_the_whole(tiny: Tiny) -> None:
    """The parts may be those of micro-batches or of ranks."""
    config = tiny().model
    student, teacher = model_of(config, 1), model_of(config, 2)
    distillation, (latents, inputs, condition) = Distillation(BOTH, teacher, student), batch_of(config)
    whole, terms = distillation.loss(student, latents, inputs, condition)
    parts = [
        distillation.loss(
            student, latents[i : i + 2], inputs.part(range(i, i + 2)), {"label": condition["label"][i : i + 2]}
        )
        for i in (0, 2, 4)
    ]
    assert torch.stack([loss for loss, _ in parts]).mean().item() == pytest.approx(whole.item(), rel=1e-5)
    for name, term in terms.items():
        assert torch.stack([found[name] for _, found in parts]).mean().item() == pytest.approx(term.item(), rel=1e-5)


def test_a_copy_of_what_is_trained_has_no_second_teacher(tiny: Tiny) -> None:
    config = tiny().model
    distillation = Distillation(BOTH, model_of(config, 2), model_of(config, 1))
    assert deepcopy(distillation) is distillation


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"latent_channels": 2}, "distillation needs a source that sees the same: its latent_channels is 2, not 1"),
        ({"latent_size": (4, 8)}, r"its latent_size is \[4, 8\], not \[8, 8\]"),
        ({"patch_size": 2}, "its patch_size is 2, not 1"),
        ({"num_classes": None}, "its num_classes is null, not 10"),
        ({"dim": 16}, "start.distill_z compares z, which has dim=8 here and dim=16 in the source"),
    ],
)
def test_a_teacher_that_sees_something_else_is_refused(tiny: Tiny, changes: dict[str, Any], sentence: str) -> None:
    config = tiny().model
    with pytest.raises(ValueError, match=sentence):
        Distillation(BOTH, LINA(replace(config, **changes)), LINA(config))


def test_the_velocity_of_a_teacher_of_another_width_can_be_learned(tiny: Tiny) -> None:
    config = tiny().model
    wide = replace(config, dim=16, depth=4, noise_samples_per_token=3)
    start = replace(BOTH, distill_z=0.0)
    assert teacher_misfit(start, config, wide) is None
    student, (latents, inputs, condition) = model_of(config, 1), batch_of(config)
    _, terms = Distillation(start, model_of(wide, 2), student).loss(student, latents, inputs, condition)
    assert terms.keys() == {FLOW, VELOCITY}


def test_a_source_that_is_no_teacher_may_see_anything(tiny: Tiny) -> None:
    config = tiny().model
    start = StartConfig(source="elsewhere")
    assert teacher_misfit(start, config, replace(config, latent_size=(4, 4), dim=16)) is None
