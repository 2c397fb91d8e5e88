"""To another resolution with trained weights."""

from dataclasses import replace

import pytest
import torch

from lina_lab.config import AttentionConfig
from lina_lab.model import LINA
from lina_lab.model.resizing import resize
from tests.model.test_lina import SMALL, disturb, seeded


@pytest.mark.parametrize("gate", ["kv", "kv_shared", "key", "value", "kv_decoupled", "output", "none"])
def test_weights_fit_the_larger_model(gate: str) -> None:
    source = replace(SMALL, attention=AttentionConfig(gate=gate))  # type: ignore[arg-type]
    target = replace(source, latent_size=(12, 10))
    small, large = LINA(source), LINA(target)
    disturb(small)
    large.load_state_dict(resize(small.state_dict(), source, target))
    assert large.loss(torch.zeros(1, 2, 12, 10), generator=seeded()).isfinite()


def test_a_gate_that_is_linear_on_its_grid_stays_so() -> None:
    """Rows of the image, and of the condition, keep the values of the places that they come to lie on."""
    target = replace(SMALL, latent_size=(12, 8))
    model = LINA(SMALL)
    rows = torch.arange(6.0).repeat_interleave(4)
    condition_rows = torch.arange(3.0).repeat_interleave(2)
    gate = model.backbone.decoder[0].attn.gate
    with torch.no_grad():
        gate.key_scale.copy_(torch.cat([condition_rows, rows]).reshape(1, -1, 1))
    scale = resize(model.state_dict(), SMALL, target)["backbone.decoder.0.attn.gate.key_scale"]
    condition, image = scale[0].split([6 * 4, 12 * 8])
    inner = torch.arange(1, 11)
    assert torch.allclose(image.reshape(12, 8)[inner, 3], (inner + 0.5) / 2 - 0.5)
    inner = torch.arange(1, 5)
    assert torch.allclose(condition.reshape(6, 4)[inner, 1], (inner + 0.5) / 2 - 0.5)


def test_the_same_resolution_changes_nothing() -> None:
    model = LINA(SMALL)
    disturb(model)
    before = model.state_dict()
    after = resize(before, SMALL, SMALL)
    assert all(torch.allclose(before[name], after[name]) for name in before)


def test_only_the_resolution_may_differ() -> None:
    with pytest.raises(ValueError, match="differ in more than that"):
        resize({}, SMALL, replace(SMALL, dim=16))
