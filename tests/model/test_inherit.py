"""Weights of one model for another: what is taken, interpolated, drawn and left, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.config.start import StartConfig
from lina_lab.model import LINA, initialize, make_model
from lina_lab.model.inherit import Inherited, inherit, misfit
from tests.model.test_lina import SMALL, disturb, seeded
from tests.model.test_placements import PLAIN, ROTARY, SOFTMAX, TEXT

LARGER = replace(SMALL, latent_size=(12, 8))
KEYS = "backbone.decoder.0.attn.gate.key_scale"


def start(**fields: Any) -> StartConfig:
    return StartConfig(source="somewhere", **fields)


def fresh(config: LinaConfig) -> LINA:
    model = LINA(config)
    initialize(model, seed=7)
    return model


def trained(config: LinaConfig) -> LINA:
    model = LINA(config)
    disturb(model)
    return model


def inherited(source: LINA, target: LinaConfig, **fields: Any) -> tuple[LINA, Inherited]:
    model = fresh(target)
    return model, inherit(model, source.state_dict(), source.config, start(**fields))


def assert_equal(model: LINA, names: tuple[str, ...], expected: dict[str, Tensor]) -> None:
    assert names
    assert all(torch.equal(model.state_dict()[name], expected[name]) for name in names)


def test_a_model_of_the_same_configuration_becomes_the_source() -> None:
    source = trained(SMALL)
    model, found = inherited(source, SMALL)
    assert_equal(model, found.taken, source.state_dict())
    assert (set(found.taken), found.interpolated, found.drawn, found.left) == (set(model.state_dict()), (), (), ())


@pytest.mark.parametrize("gate", ["kv", "kv_shared", "key", "value", "kv_decoupled", "output", "none"])
def test_weights_fit_the_larger_model(gate: str) -> None:
    source = trained(replace(SMALL, attention=AttentionConfig(gate=gate)))
    model, found = inherited(source, replace(source.config, latent_size=(12, 10)))
    assert model.loss(torch.zeros(1, 2, 12, 10), generator=seeded()).isfinite()
    assert len(found.interpolated) == {"kv": 2, "kv_shared": 2, "kv_decoupled": 3, "key": 1, "value": 1}.get(gate, 0)
    assert (found.drawn, found.left) == ((), ())


def test_a_gate_that_is_linear_on_its_grid_stays_so() -> None:
    """Rows of the image, and of the condition, keep the values of the places that they come to lie on."""
    source = LINA(SMALL)
    rows = torch.arange(6.0).repeat_interleave(4)
    condition_rows = torch.arange(3.0).repeat_interleave(2)
    with torch.no_grad():
        source.state_dict()[KEYS].copy_(torch.cat([condition_rows, rows]).reshape(1, -1, 1))
    scale = inherited(source, LARGER)[0].state_dict()[KEYS]
    condition, image = scale[0].split([6 * 4, 12 * 8])
    inner = torch.arange(1, 11)
    assert torch.allclose(image.reshape(12, 8)[inner, 3], (inner + 0.5) / 2 - 0.5)
    inner = torch.arange(1, 5)
    assert torch.allclose(condition.reshape(6, 4)[inner, 1], (inner + 0.5) / 2 - 0.5)


@pytest.mark.parametrize("size", [(6, 4), (12, 8)])
def test_gates_that_restart_are_1_whatever_the_source_has_learned(size: tuple[int, int]) -> None:
    source = trained(SMALL)
    model, found = inherited(source, replace(SMALL, latent_size=size), gates="restart")
    gates = {name for name in model.state_dict() if ".gate." in name}
    assert set(found.drawn) == set(found.left) == gates
    assert all((model.state_dict()[name] == 1).all() for name in gates)
    assert_equal(model, found.taken, source.state_dict())


def test_gates_are_dropped_for_a_model_without_them() -> None:
    source, without = trained(SMALL), replace(LARGER, attention=AttentionConfig(gate="none"))
    _, found = inherited(source, without, gates="drop")
    assert len(found.left) == 2
    assert found.drawn == ()
    with pytest.raises(ValueError, match=r"key_scale, which the model lacks; .*value_scale, which the model lacks"):
        inherited(source, without)
    with pytest.raises(ValueError, match=r"gates=drop is for a model without gates by position, and this one has"):
        inherited(source, LARGER, gates="drop")


def test_positions_extend_by_their_formula_and_are_never_taken() -> None:
    """Even if a model keeps them in its state, as one of another package may."""
    source, model = trained(SMALL), fresh(SMALL)
    for each, value in ((source, 5.0), (model, 0.5)):
        positions = each.backbone.positions
        del positions.code
        positions.register_buffer("code", torch.full((24, 8), value), persistent=True)
    found = inherit(model, source.state_dict(), SMALL, start())
    assert (model.backbone.positions.code == 0.5).all()
    assert not any("positions" in name for name in found.taken + found.drawn + found.left)
    larger, _ = inherited(trained(SMALL), LARGER)
    assert torch.equal(larger.backbone.positions.code, LINA(LARGER).backbone.positions.code)
    rotary, _ = inherited(trained(ROTARY), replace(ROTARY, latent_size=(12, 8)))
    assert rotary.backbone.positions.cos.shape[0] == 12 * 8


def test_a_softmax_model_becomes_a_linear_one_with_its_attention_weights() -> None:
    source = trained(replace(SMALL, attention=SOFTMAX))
    model, found = inherited(source, SMALL)
    assert_equal(model, found.taken, source.state_dict())
    assert set(found.taken) == set(source.state_dict())
    assert {name.split(".attn.")[1].split(".")[0] for name in found.drawn} == {"conv", "gate"}
    assert_equal(model, found.drawn, fresh(SMALL).state_dict())


def test_a_softmax_model_becomes_a_linear_one_with_all_but_its_attention_weights() -> None:
    source = trained(replace(SMALL, attention=SOFTMAX))
    model, found = inherited(source, SMALL, take="all_but_attention")
    assert all(".attn." in name for name in found.drawn + found.left)
    assert not any(".attn." in name for name in found.taken)
    assert_equal(model, found.taken, source.state_dict())
    assert_equal(model, found.drawn, fresh(SMALL).state_dict())


def test_named_parameters_are_taken_alone() -> None:
    source = trained(SMALL)
    model, found = inherited(source, SMALL, take="named", named=["*.mlp.*", "class_embedding.*"])
    assert all(".mlp." in name or name.startswith("class_embedding.") for name in found.taken)
    assert_equal(model, found.taken, source.state_dict())
    assert_equal(model, found.drawn, fresh(SMALL).state_dict())
    with pytest.raises(ValueError, match=r"start\.named: no parameter of the source matches encoder\.\*"):
        inherited(source, SMALL, take="named", named=["*.mlp.*", "encoder.*"])


def test_a_deeper_model_draws_the_blocks_that_the_source_lacks() -> None:
    source = trained(SMALL)
    model, found = inherited(source, replace(SMALL, flow_depth=2))
    assert all(name.startswith("flow_head.blocks.1.") for name in found.drawn)
    assert_equal(model, found.drawn, fresh(model.config).state_dict())


UNFIT: dict[str, tuple[LinaConfig, LinaConfig, str]] = {
    "channels": (SMALL, replace(SMALL, latent_channels=3), "latent_channels=2, and the model latent_channels=3"),
    "patch": (
        # A token has 16 numbers in both.
        replace(SMALL, latent_channels=16),
        replace(SMALL, latent_channels=1, patch_size=4, latent_size=(24, 16)),
        "latent_channels=16, patch_size=1, and the model latent_channels=1, patch_size=4",
    ),
    "text": (TEXT, replace(TEXT, text_dim=7), "text_dim=5, and the model text_dim=7"),
    "width": (SMALL, replace(SMALL, dim=16), "dim=8, and the model dim=16"),
    "heads": (SMALL, replace(SMALL, num_heads=4), "num_heads=2, and the model num_heads=4"),
    "blocks": (replace(SMALL, depth=4), SMALL, "depth=4, and the model depth=2"),
    "no class": (SMALL, replace(SMALL, num_classes=None), "num_classes=3, and the model num_classes=None"),
    "gate": (SMALL, replace(SMALL, attention=AttentionConfig(gate="value")), "key_scale, which the model lacks"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_named_and_changes_nothing(case: str) -> None:
    source, target, sentence = UNFIT[case]
    model = fresh(target)
    with pytest.raises(ValueError, match=sentence) as refused:
        inherit(model, trained(source).state_dict(), source, start())
    assert str(refused.value) == misfit(target, source, start())
    assert "\n" not in str(refused.value)
    assert_equal(model, tuple(model.state_dict()), fresh(target).state_dict())


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_left_where_that_is_asked_for(case: str) -> None:
    source, target, _ = UNFIT[case]
    model, found = inherited(trained(source), target, unfit="leave")
    assert found.left
    assert misfit(target, source, start(unfit="leave")) is None
    assert_equal(model, found.taken, trained(source).state_dict())
    if found.drawn:
        assert_equal(model, found.drawn, fresh(target).state_dict())


def test_attention_of_other_heads_means_something_else_though_its_shape_is_the_same() -> None:
    assert misfit(replace(SMALL, num_heads=4), SMALL, start(take="all_but_attention")) is None
    _, found = inherited(trained(SMALL), replace(SMALL, num_heads=4), unfit="leave")
    assert "backbone.encoder.0.attn.qkv.weight" in found.left


def test_weights_of_which_nothing_is_taken_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing of the source's weights is taken"):
        inherited(
            trained(SMALL),
            replace(SMALL, num_heads=4),
            take="named",
            named=["*.attn.qkv.*"],
            unfit="leave",
        )


def test_weights_in_half_precision_are_taken_in_the_model_s() -> None:
    source = trained(SMALL)
    halves = {name: value.bfloat16() for name, value in source.state_dict().items()}
    model = fresh(LARGER)
    inherit(model, halves, SMALL, start())
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    name = "backbone.norm.weight"
    assert torch.equal(model.state_dict()[name], halves[name].float())


def test_the_report_counts_and_names_what_was_not_taken() -> None:
    source = trained(replace(SMALL, attention=PLAIN))
    _, found = inherited(source, LARGER)
    sentence = str(found)
    assert sentence.startswith(
        f"{len(found.taken)} parameters taken, {len(found.drawn)} drawn (backbone.decoder.0.attn"
    )
    assert "left" not in sentence


@pytest.mark.parametrize("task", ["classification", "diffusion"])
def test_gates_of_a_task_without_condition_tokens_are_interpolated_on_the_image_s_grid(task: str) -> None:
    source = make_model(replace(SMALL, task=task))
    name, rows = "blocks.0.attn.gate.key_scale", torch.arange(6.0).repeat_interleave(4)
    with torch.no_grad():
        source.state_dict()[name].copy_(rows.reshape(1, -1, 1))
    model = make_model(replace(LARGER, task=task))
    found = inherit(model, source.state_dict(), source.config, start())
    assert (len(found.interpolated), found.drawn, found.left) == (4, (), ())
    inner = torch.arange(1, 11)
    assert torch.allclose(model.state_dict()[name][0].reshape(12, 8)[inner, 3], (inner + 0.5) / 2 - 0.5)


def test_a_diffusion_model_takes_the_attentions_of_a_classifier() -> None:
    source = make_model(replace(SMALL, task="classification"))
    disturb(source)
    model = make_model(replace(SMALL, task="diffusion"))
    found = inherit(model, source.state_dict(), source.config, start(take="named", named=["blocks.*.attn.*"]))
    assert {name.split(".")[2] for name in found.taken} == {"attn"}
    assert_equal(model, found.taken, source.state_dict())


def test_weights_of_another_task_or_norm_placement_are_refused() -> None:
    found = misfit(replace(SMALL, task="diffusion"), SMALL, start())
    assert found is not None
    assert "(the source has task=generation, and the model task=diffusion)" in found
    before = misfit(replace(SMALL, norm_placement="before"), SMALL, start())
    assert before is not None
    assert "condition_encoder.blocks.0.norm1.weight [8], for [8]" in before
    assert "(the source has norm_placement=after, and the model norm_placement=before)" in before
