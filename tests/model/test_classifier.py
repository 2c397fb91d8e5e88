"""The classifier: loss and gradients against plain PyTorch, and what is random in them."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.model import make_model, sample_loss_inputs
from lina_lab.model.classifier import Classifier, ClassifierInputs, moved
from tests.conftest import relative_error
from tests.model import task_twins as twins
from tests.model.test_lina import SMALL, disturb, seeded

CONFIG = replace(SMALL, task="classification", latent_size=(8, 4), patch_size=2, depth=2, label_smoothing=0.1)
ATTENTIONS = {
    "division, convolution and gate": AttentionConfig(conv_kernel=3),
    "subtraction and gate": AttentionConfig(normalization="subtraction", conv="none"),
    "softmax": AttentionConfig(kind="softmax", conv="none", gate="none"),
}
LABEL = torch.tensor([0, 2, 1, 1, 2])


def double(config: LinaConfig) -> Classifier:
    model = make_model(config).double()
    disturb(model)
    return model


def images(config: LinaConfig, number: int = 5) -> Tensor:
    return torch.randn(number, config.latent_channels, *config.latent_size, generator=seeded(2), dtype=torch.float64)


@pytest.mark.parametrize("placement", ["after", "before"])
@pytest.mark.parametrize("attention", ATTENTIONS.values(), ids=ATTENTIONS)
def test_loss_and_gradients_are_those_of_plain_pytorch(attention: AttentionConfig, placement: str) -> None:
    config = replace(CONFIG, attention=attention, norm_placement=placement)
    model, latents = double(config), images(config)
    inputs = sample_loss_inputs(config, 5, seeded())
    assert torch.equal(inputs.smoothing, torch.full((5,), 0.1))
    inputs = replace(inputs, smoothing=torch.full((5,), 0.1, dtype=torch.float64))
    loss = model.loss_from_inputs(latents, inputs, label=LABEL)
    loss.backward()
    P = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    wanted = F.cross_entropy(twins.logits(P, latents, config), LABEL, label_smoothing=0.1)
    wanted.backward()
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-10)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert relative_error(parameter.grad, P[name].grad) < 1e-9, name


def test_logits_are_those_of_plain_pytorch() -> None:
    model, latents = double(CONFIG), images(CONFIG)
    assert relative_error(model.logits(latents), twins.logits(model.state_dict(), latents, CONFIG)) < 1e-10


def test_the_loss_of_a_fresh_model_is_that_of_equal_probabilities() -> None:
    model, latents = make_model(CONFIG), images(CONFIG).float()
    loss = model.loss_from_inputs(latents, sample_loss_inputs(CONFIG, 5, seeded()), label=LABEL)
    assert float(loss.detach()) == pytest.approx(math.log(3))


def test_validation_is_the_cross_entropy_of_images_as_they_are_without_smoothing() -> None:
    model, latents = double(CONFIG), images(CONFIG)
    (inputs,) = ClassifierInputs.frozen(CONFIG, [5])
    inputs = replace(inputs, smoothing=inputs.smoothing.double())
    loss = model.loss_from_inputs(latents, inputs, label=LABEL).detach()
    assert float(loss) == pytest.approx(float(F.cross_entropy(model.logits(latents), LABEL).detach()), rel=1e-10)


def test_an_image_is_flipped_then_moved_and_its_edge_repeated() -> None:
    image = torch.arange(1, 7).reshape(1, 1, 2, 3).expand(4, 1, 2, 3)
    flip = torch.tensor([False, True, False, True])
    shift = torch.tensor([[0, 0], [0, 0], [1, -1], [-1, 2]])
    assert moved(image, flip, shift)[:, 0].tolist() == [
        [[1, 2, 3], [4, 5, 6]],
        [[3, 2, 1], [6, 5, 4]],
        [[2, 3, 3], [2, 3, 3]],
        [[6, 6, 6], [6, 6, 6]],
    ]


def test_half_of_the_images_are_flipped_and_each_shift_is_as_probable() -> None:
    inputs = ClassifierInputs.sample(CONFIG, 5000, seeded(), flip=True, shift=2)
    assert inputs.flip.float().mean().item() == pytest.approx(0.5, abs=0.02)
    for axis in inputs.shift.T:
        counts = torch.bincount(axis + 2, minlength=5)
        assert len(counts) == 5
        assert (counts - 1000).abs().max() < 120


def test_without_augmentation_images_are_as_they_are_and_the_rest_is_the_same() -> None:
    plain = ClassifierInputs.sample(CONFIG, 50, seeded())
    assert not plain.flip.any()
    assert not plain.shift.any()
    flipped, both = (ClassifierInputs.sample(CONFIG, 50, seeded(), flip=True, shift=s) for s in (0, 3))
    assert torch.equal(flipped.flip, both.flip)
    latents = images(CONFIG, 50)
    assert torch.equal(moved(latents, plain.flip, plain.shift), latents)
