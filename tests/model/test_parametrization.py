"""muP: every parameter of every variant has a rule, and the rules are those of the table."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh

from lina_lab.config import AttentionConfig, LinaConfig, from_dict
from lina_lab.config.attention import PARTS
from lina_lab.config.tasks import TASKS
from lina_lab.model import LINA, initialize, load_official, make_model, sample_loss_inputs, save_official
from lina_lab.model.gates import Gate as GateModule
from lina_lab.model.parametrization import ParameterKind, WidthFactors, parameter_kinds, width_factors
from lina_lab.training.optimizers import grouped_parameters
from lina_lab.training.sharding import shard
from lina_lab.variants import CORES, GATES, POSITIONS, Gate, Geometry, nothing

BASE: dict[str, Any] = {
    "latent_channels": 16,
    "latent_size": [8, 8],
    "patch_size": 2,  # tokens of 64 numbers, as many as the width: sizes alone do not tell an input layer
    "dim": 64,
    "num_heads": 2,
    "condition_depth": 1,
    "depth": 2,
    "flow_depth": 1,
    "num_classes": 10,
    "parametrization": "mup",
    "base_dim": 32,
}
TEXT = {"num_classes": None, "text_dim": 64, "text_length": 8}
BY_NAME = {
    r"(flow_head\.)?head\.weight|out\.weight": ParameterKind.OUTPUT,
    r"(flow_head\.)?head\.bias|out\.bias|text_embedding\.table": ParameterKind.SCALAR,
    r".*\.gate\.\w+_scale": ParameterKind.INPUT,
    r".*\.(qkv|proj|key_gate|value_gate|output_gate)\.weight": ParameterKind.HIDDEN,
    r"(.*\.)?blocks\.\d\.mlp\.fc[12]\.weight|backbone\..*\.mlp\.fc[12]\.weight": ParameterKind.HIDDEN,
    r"flow_head\.(z_mlp\.fc[12]|time_mlp\.fc2)\.weight|.*\.time_zero\.mlp\.2\.weight": ParameterKind.HIDDEN,
    r"(time_mlp|text\.mlp)\.fc2\.weight": ParameterKind.HIDDEN,
}
"""What the table of the paper says of each name; all others are inputs, biases, norms, tokens or convolutions."""


def mup(**changes: Any) -> LinaConfig:
    return from_dict(LinaConfig, BASE | changes)


def expected(name: str) -> ParameterKind:
    if name == "text_embedding.proj.weight":
        return ParameterKind.INPUT
    return next((kind for pattern, kind in BY_NAME.items() if re.fullmatch(pattern, name)), ParameterKind.INPUT)


def every_variant() -> Iterator[Any]:
    """Each built-in entry of each registry in a model that may have it."""
    for field, entries in PARTS.items():
        for entry in entries.builtin.values():
            chosen = {field: entry.name, "mediators": 2, "conv_kernel": 3}
            for core in CORES.builtin.values() if field != "kind" else [entry]:
                if entry.needs is None or entry.needs in core.takes:
                    gate = chosen.get("gate", "none")
                    attention = {"kind": core.name, "gate": gate, "conv": chosen.get("conv", "none")} | chosen
                    position = "rotary" if field == "rotate" else "sincos"
                    yield pytest.param(
                        {"attention": attention, "position": position}, id=f"{field}={entry.name}, {core.name}"
                    )
    for position in POSITIONS.builtin:
        yield pytest.param({"position": position}, id=f"position={position}")
    yield pytest.param(TEXT, id="text")
    for task in TASKS.builtin:
        for placement in ("after", "before"):
            yield pytest.param({"task": task, "norm_placement": placement}, id=f"{task}, norms {placement}")
    yield pytest.param(TEXT | {"task": "diffusion"}, id="diffusion of texts")


@pytest.mark.parametrize("changes", list(every_variant()))
def test_every_parameter_of_every_variant_has_the_kind_of_the_table(changes: dict[str, Any]) -> None:
    config = mup(**changes)
    model = make_model(config)
    kinds = parameter_kinds(model, config)
    names = [name for name, _ in model.named_parameters()]
    shared = {name for name in names if ".gate." in name and model.get_parameter(name).shape[0] == 1}
    assert kinds == {name: ParameterKind.SCALAR if name in shared else expected(name) for name in names}
    grouped = [parameter for parameters in grouped_parameters(model).values() for parameter in parameters]
    assert len(grouped) == len({*grouped}) == sum(parameter.requires_grad for parameter in model.parameters())


def test_the_factors_are_those_of_the_table() -> None:
    factors = width_factors(LINA(mup(dim=128, num_heads=4)))
    assert factors["backbone.embed.weight"] == WidthFactors(eps=1 / 4)
    assert factors["backbone.mask_token"] == WidthFactors(eps=1 / 4)
    assert factors["backbone.norm.bias"] == WidthFactors(eps=1 / 4)
    assert factors["backbone.decoder.0.attn.qkv.weight"] == WidthFactors(rate=1 / 4, weight_decay=4, eps=1 / 4)
    assert factors["flow_head.head.weight"] == WidthFactors(init=1 / 2, rate=1 / 4, weight_decay=4)
    assert factors["flow_head.head.bias"] == WidthFactors()


def test_at_base_width_mup_is_the_standard_parametrization() -> None:
    model = LINA(mup(base_dim=64))
    standard = LINA(mup(base_dim=None, parametrization="standard"))
    initialize(model, 3), initialize(standard, 3)
    assert set(width_factors(model).values()) == {WidthFactors()}
    assert [len(group) for group in grouped_parameters(model).values()] == [
        len(group) for group in grouped_parameters(standard).values()
    ]
    assert all(torch.equal(value, standard.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_weights_of_mup_compute_the_same_in_a_standard_model_and_in_the_authors_layout() -> None:
    config = mup()
    model, standard = LINA(config), LINA(replace(config, parametrization="standard", base_dim=None))
    nn.init.normal_(model.flow_head.head.weight)
    load_official(standard, save_official(model))
    inputs = sample_loss_inputs(config, 3, torch.Generator().manual_seed(0))
    latents, label = torch.randn(3, 16, 8, 8), torch.tensor([0, 1, 2])
    losses = [one.loss_from_inputs(latents, inputs, label=label) for one in (model, standard)]
    assert torch.equal(*losses)


def test_a_flow_head_of_fixed_width_is_an_output_of_the_backbone() -> None:
    config = mup(flow_dim=48)
    model = LINA(config)
    kinds = parameter_kinds(model, config)
    assert {name for name, kind in kinds.items() if kind is ParameterKind.OUTPUT} == {"flow_head.z_mlp.fc1.weight"}
    assert kinds["flow_head.head.weight"] is ParameterKind.SCALAR
    standard = LINA(replace(config, parametrization="standard", base_dim=None))
    smaller, usual = model.flow_head.z_mlp.fc1.weight, standard.flow_head.z_mlp.fc1.weight
    assert torch.allclose(smaller, usual / 2**0.5)


def test_sharded_weights_have_the_kinds_of_whole_ones(tmp_path: Path) -> None:
    config = mup()
    whole = parameter_kinds(LINA(config), config)
    distributed.init_process_group("gloo", store=distributed.FileStore(str(tmp_path / "store")), rank=0, world_size=1)
    try:
        model = LINA(config)
        shard(model, init_device_mesh("cpu", (1,)))
        assert parameter_kinds(model, config) == whole
    finally:
        distributed.destroy_process_group()


class MatrixGate(GateModule):
    """Multiplies the output with a matrix that is no layer's."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(geometry.dim))


def test_a_parameter_without_a_rule_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Gate(name="matrix", documentation="", module=MatrixGate, parameters=nothing, multiply_adds=nothing)
    monkeypatch.setitem(GATES.builtin, "matrix", entry)
    sentence = (
        r"^model.parametrization=mup has no rule for backbone.decoder.0.attn.gate.matrix, which is \[64, 64\] at "
        r"width 64 and \[32, 32\] at base_dim=32$"
    )
    with pytest.raises(ValueError, match=sentence):
        LINA(mup(attention=AttentionConfig(gate="matrix")))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"base_dim": None}, "parametrization=mup needs base_dim, the width at which it equals the standard"),
        ({"parametrization": "standard"}, "base_dim=32 is for parametrization=mup"),
        ({"base_dim": 48}, "base_dim=48 is not a multiple of the 32 channels of a head, which parametrization=mup"),
        ({"dim": 60, "num_heads": 10, "base_dim": 30}, "base_dim=30 makes no model: position=sincos needs a dim that"),
        ({"parametrization": "muP"}, "parametrization='muP': input should be 'standard' or 'mup'"),
    ],
)
def test_what_mup_cannot_be_is_refused_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        mup(**changes)
