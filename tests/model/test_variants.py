"""Entries of variants: what each says is what its module has, and what is not complete is refused."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lina_lab.config import AttentionConfig, LinaConfig, from_dict
from lina_lab.config.attention import PARTS as PARTS_BY_FIELD
from lina_lab.config.checks import choices
from lina_lab.config.datasets import DATA_SETS
from lina_lab.config.metrics import METRICS
from lina_lab.config.optimizers import OPTIMIZERS
from lina_lab.model import LINA, Attention, save_official
from lina_lab.util import registry
from lina_lab.util.registry import OpenRegistry, PackageError, Provided
from lina_lab.variants import (
    CONVOLUTIONS,
    CORES,
    FEATURE_MAPS,
    GATES,
    HEAD_NORMS,
    NORMALIZATIONS,
    POSITIONS,
    QK_NORMS,
    ROTATIONS,
    Gate,
    Geometry,
    OfficialWeight,
    nothing,
)
from tests.model.test_lina import SMALL, small

REGISTRIES = (CORES, NORMALIZATIONS, FEATURE_MAPS, CONVOLUTIONS, GATES, QK_NORMS, ROTATIONS, HEAD_NORMS, POSITIONS)
GEOMETRY = Geometry(dim=8, heads=2, grid=(3, 4), condition_tokens=4, kernel=3)
PARTS = [entry for entries in (GATES, CONVOLUTIONS, QK_NORMS, HEAD_NORMS) for entry in entries.builtin.values()]
COMPLETE = Gate(name="test", documentation="", module=nn.Identity, parameters=nothing, multiply_adds=nothing)


def test_the_entries_import_no_torch() -> None:
    code = "import sys, lina_lab.variants; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize("entries", [*REGISTRIES, DATA_SETS, OPTIMIZERS], ids=lambda entries: entries.field)
def test_every_entry_names_an_object_that_exists(entries: OpenRegistry[Any]) -> None:
    for name, entry in entries.builtin.items():
        assert entry.name == name
        assert entry.documentation
        assert "\n" not in entry.documentation
        assert entry.load() is not None


@pytest.mark.parametrize("entry", PARTS, ids=lambda entry: f"{entry.field}={entry.name}")
def test_an_entry_names_every_tensor_of_its_module(entry: Any) -> None:
    module = entry.load()(GEOMETRY) or nn.Identity()
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert entry.official is None or {weight.ours for weight in entry.official} == set(shapes)
    assert entry.count_parameters(GEOMETRY) == sum(value.numel() for value in module.state_dict().values())
    tied = {name for name, shape in shapes.items() if GEOMETRY.tokens in shape}
    assert tied == set(getattr(entry, "by_position", ()))
    assert entry.needs_grid or not tied


@pytest.mark.parametrize("count", ["parameters", "multiply_adds"])
def test_a_variant_without_counts_is_refused(count: str) -> None:
    with pytest.raises(ValueError, match=f"^gate=test has no {count}: an entry says what its variant costs$"):
        GATES.register(replace(COMPLETE, **{count: None}))
    assert "test" not in GATES.builtin


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match="gate=kv is registered already"):
        GATES.register(replace(COMPLETE, name="kv"))


def test_the_rules_of_the_configuration_are_those_of_the_entries() -> None:
    for entry in GATES.builtin.values():
        for core in CORES.builtin.values():
            allowed = entry.needs is None or entry.needs in core.takes
            try:
                AttentionConfig(kind=core.name, gate=entry.name)
            except ValueError:
                assert not allowed
            else:
                assert allowed
    assert choices(AttentionConfig.__annotations__["gate"]) == tuple(GATES)


def test_built_in_names_are_found_without_a_look_at_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(group: str) -> Any:
        raise RuntimeError(f"entry points of {group} were looked at")

    for entries in REGISTRIES:
        monkeypatch.setattr(entries, "_outside", None)
    monkeypatch.setattr(registry, "provided_by_packages", never)
    LINA(from_dict(LinaConfig, {"dim": 8, "num_heads": 2, "depth": 2, "condition_depth": 1, "latent_size": [4, 4]}))
    with pytest.raises(RuntimeError, match="were looked at"):
        AttentionConfig(gate="test")


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets tests say what installed packages provide."""

    def provide(*values: Any) -> None:
        for entries in (*REGISTRIES, METRICS):
            monkeypatch.setattr(entries, "_outside", None)
        provided = tuple(Provided("other 1.2", value) for value in values)
        monkeypatch.setattr(registry, "provided_by_packages", lambda group: provided)

    return provide


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (replace(COMPLETE, parameters=None), "package other 1.2: gate=test has no parameters: an entry says"),
        (replace(COMPLETE, name="kv"), "package other 1.2: gate=kv is registered already"),
        (object, "package other 1.2: its entry point in lina_lab.variants is not a Convolution or "),
    ],
    ids=["no counts", "taken", "no entry"],
)
def test_what_a_package_provides_wrong_names_the_package(packages: Any, value: Any, sentence: str) -> None:
    packages(value)
    with pytest.raises(PackageError, match=sentence):
        list(GATES)
    with pytest.raises(ValueError, match=f"^attention.gate='mine': {sentence}"):
        from_dict(LinaConfig, {"attention": {"gate": "mine"}})
    assert AttentionConfig(gate="kv").gate == "kv"


def test_an_entry_point_that_fails_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name, value = "head", "no_such_module:HEAD"
        dist: Any = type("Dist", (), {"name": "other", "version": "1.2"})

        def load(self) -> None:
            raise ModuleNotFoundError("No module named 'no_such_module'")

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Point()])
    sentence = (
        r"package other 1\.2: its entry point head = no_such_module:HEAD in lina_lab\.variants cannot be loaded "
        r"\(ModuleNotFoundError: No module named 'no_such_module'\)"
    )
    registry.provided_by_packages.cache_clear()
    with pytest.raises(PackageError, match=f"^{sentence}$"):
        registry.provided_by_packages("lina_lab.variants")


def test_a_metric_of_a_package_has_a_name_of_generated_images(packages: Any) -> None:
    packages(replace(METRICS["eval/captions"], name="mine", callback=object))
    with pytest.raises(PackageError, match="metric mine must have a name that starts with eval/"):
        list(METRICS)


class HeadScale(nn.Module):
    """A gate's module: a weight for each head on the output."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(geometry.heads, 1))
        self.gate = nn.Linear(geometry.dim, geometry.heads)

    def weights(self, x: torch.Tensor) -> Any:
        from lina_lab.model.linear import Weights

        return Weights()

    def output(self, x: torch.Tensor, o: torch.Tensor) -> torch.Tensor:
        return o * self.scale.sum()


OFFICIAL = (
    OfficialWeight("scale", "head_scale", "1 heads 1", "heads 1"),
    OfficialWeight("gate.weight", "head_gate.weight", "heads dim"),
    OfficialWeight("gate.bias", "head_gate.bias", "heads"),
)
HEAD = Gate(
    name="test",
    documentation="",
    module=HeadScale,
    needs=None,
    parameters=lambda g: g.heads + g.dim * g.heads + g.heads,
    multiply_adds=lambda g, tokens: tokens * g.dim * g.heads,
)


def test_a_package_s_variant_is_found_in_official_weights_by_its_names(packages: Any) -> None:
    """Without names of the authors it cannot be put into their layout, in one sentence."""
    from lina_lab.model.detect import detect

    packages(replace(HEAD, official=OFFICIAL))
    config = replace(small(AttentionConfig(gate="test")), latent_size=(8, 8))
    weights: Mapping[str, torch.Tensor] = save_official(LINA(config))
    assert weights["image_encoder.blocks.1.attn.head_scale"].shape == (1, SMALL.num_heads, 1)
    assert detect(weights).config.decoder_blocks == config.decoder_blocks
    packages(HEAD)
    with pytest.raises(ValueError, match=r"^gate=test: its scale has no name in the authors' layout$"):
        save_official(Attention(8, 2, AttentionConfig(gate="test")))


def test_a_variant_that_the_authors_do_not_have_is_not_put_into_their_layout() -> None:
    """Whatever its tensors are called; without a tensor nothing is lost."""
    refused = set()
    for field, entries in PARTS_BY_FIELD.items():
        for entry in entries.builtin.values():
            rest = {"conv": "none", "gate": "none", "blocks": 4, field: entry.name}
            module = Attention(8, 2, AttentionConfig(**rest), (4, 4), 4)
            if entry.official is None:
                refused.add(field)
                with pytest.raises(
                    ValueError, match=rf"^{field}={entry.name}: its \S+ has no name in the authors' layout$"
                ):
                    save_official(module)
            else:
                save_official(module)
    assert refused == {"kind", "conv", "gate", "qk_norm", "head_norm"}


def test_a_variant_that_does_not_fit_is_refused_by_the_configuration_and_the_module() -> None:
    with pytest.raises(ValueError, match="gate=memory needs a multiple of 4 tokens, not 13"):
        replace(SMALL, latent_size=(3, 3), attention=AttentionConfig(gate="memory", conv="none"), patch_size=1)
    with pytest.raises(ValueError, match="gate=memory needs a multiple of 4 tokens, not 13"):
        Attention(8, 2, AttentionConfig(gate="memory"), (3, 3), 4)
