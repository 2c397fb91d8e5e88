"""Our model against numbers that the authors' modules computed."""

from typing import Any

import pytest
import torch

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.model import LINA, Attention, LossInputs, load_official, save_official
from tests.conftest import Parity, relative_error

TOLERANCE = 1e-5
VARIANTS: dict[str, dict[str, Any]] = {
    "softmax": {"kind": "softmax", "conv": "none", "gate": "none"},
    "division": {"conv": "none", "gate": "none"},
    "division_conv": {"gate": "none"},
    "division_conv_kv": {},
    "division_conv_key": {"gate": "key"},
    "division_output": {"conv": "none", "gate": "output"},
    "subtraction": {"normalization": "subtraction", "conv": "none", "gate": "none"},
}


@pytest.fixture(params=VARIANTS)
def attention(request: pytest.FixtureRequest) -> tuple[Attention, Parity]:
    parity = Parity(f"attention_{request.param}")
    module = Attention(32, 2, AttentionConfig(**VARIANTS[request.param]), grid=(16, 16), condition_tokens=64)
    load_official(module, parity.weights)
    return module, parity


@pytest.fixture(params=["softmax", "division_conv_kv"])
def model(request: pytest.FixtureRequest) -> tuple[LINA, Parity]:
    config = LinaConfig(
        dim=32,
        num_heads=2,
        condition_depth=2,
        depth=4,
        flow_depth=2,
        flow_dim=48,
        attention=AttentionConfig(**VARIANTS[request.param]),
    )
    parity, module = Parity(f"model_c2i_{request.param}"), LINA(config)
    load_official(module, parity.weights)
    return module, parity


def test_attention(attention: tuple[Attention, Parity]) -> None:
    module, parity = attention
    assert relative_error(module(parity["x"]), parity["y"]) <= TOLERANCE


def test_condition(model: tuple[LINA, Parity]) -> None:
    module, parity = model
    assert relative_error(module.condition(label=parity["label"]), parity["condition"]) <= TOLERANCE


def test_z(model: tuple[LINA, Parity]) -> None:
    module, parity = model
    z = module.encode(parity["latents"], parity["condition"], parity["visible_ids"])
    assert relative_error(z, parity["z"]) <= TOLERANCE


def test_velocity(model: tuple[LINA, Parity]) -> None:
    module, parity = model
    sigma = (parity["timestep"] / 1000).unsqueeze(-1)
    noised = sigma * parity["noise"] + (1 - sigma) * parity["latents"].flatten(2).mT
    velocity = module.velocity(noised, parity["timestep"], parity["z"])
    assert relative_error(velocity, parity["velocity"]) <= TOLERANCE


def test_loss(model: tuple[LINA, Parity]) -> None:
    module, parity = model
    visible = torch.zeros(parity["timestep"].shape, dtype=torch.bool).scatter(1, parity["visible_ids"], True)
    masked_ids = (~visible).nonzero()[:, 1].reshape(len(visible), -1)
    draws = LossInputs(
        visible_ids=parity["visible_ids"],
        masked_ids=masked_ids,
        timestep=parity["timestep"].gather(1, masked_ids).unsqueeze(0),
        noise=torch.stack([n[ids] for n, ids in zip(parity["noise"], masked_ids, strict=True)]).unsqueeze(0),
        drop=torch.zeros(len(visible), dtype=torch.bool),
    )
    loss = module.loss_from_inputs(parity["latents"], draws, label=parity["label"])
    assert relative_error(loss.reshape(1), parity["loss"]) <= TOLERANCE


def test_attention_weights_come_out_as_they_went_in(attention: tuple[Attention, Parity]) -> None:
    module, parity = attention
    written = save_official(module)
    assert written.keys() == parity.weights.keys()
    assert all(torch.equal(written[name], parity.weights[name]) for name in written)


def test_model_weights_come_out_as_they_went_in(model: tuple[LINA, Parity]) -> None:
    module, parity = model
    written = save_official(module)
    assert written.keys() == parity.weights.keys()
    assert all(torch.equal(written[name], parity.weights[name]) for name in written)


def test_weights_that_do_not_fit_are_listed_and_change_nothing() -> None:
    parity = Parity("attention_division_conv_kv")
    module = Attention(32, 2, AttentionConfig())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wrong = dict(parity.weights)
    del wrong["proj.bias"]
    wrong["extra"] = torch.zeros(1)
    wrong["dw_conv.weight"] = wrong["dw_conv.weight"][:, :, :3, :3]
    with pytest.raises(ValueError, match="do not fit this Attention") as caught:
        load_official(module, wrong)
    message = str(caught.value)
    assert "proj.bias is missing" in message
    assert "extra is left over" in message
    assert "dw_conv.weight has shape [32, 1, 3, 3]" in message
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
