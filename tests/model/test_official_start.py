"""Training that starts from weights that the authors published: the tensors that their own procedure gives."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lina_lab import load
from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.config.start import StartConfig
from lina_lab.model import LINA, initialize, save_official
from lina_lab.model.inherit import Inherited, inherit
from lina_lab.model.saved import Saved, read_saved, saved_config
from lina_lab.records.weights import STEM, locate
from tests.model.test_lina import disturb
from tests.model.test_official import FORMS
from tests.model.test_placements import SOFTMAX, TEXT

# Of the authors' text-to-image models, tiny: patches of 2 on latents that double from stage to stage.
STAGE_256 = replace(TEXT, latent_channels=4, patch_size=2, latent_size=(16, 16), depth=4, text_length=256)
STAGE_512 = replace(STAGE_256, latent_size=(32, 32))
NOVA = replace(STAGE_256, attention=SOFTMAX)
Weights = dict[str, Tensor]


def published(config: LinaConfig, folder: Path) -> Weights:
    """Write a model as the authors publish one; the tensors by their names."""
    model = LINA(config)
    disturb(model)
    weights = {name: value.contiguous() for name, value in save_official(model).items()}
    folder.mkdir()
    save_file(weights, folder / f"{STEM}.safetensors")
    return weights


def fresh(config: LinaConfig) -> LINA:
    model = LINA(config)
    initialize(model, seed=3)
    return model


def started(folder: Path, target: LinaConfig, start: StartConfig) -> tuple[Weights, Inherited, Saved]:
    """The model in the authors' layout, and what became of the weights."""
    saved, model = read_saved(locate(str(folder)), like=target), fresh(target)
    found = inherit(model, saved.weights, saved.config, start)
    return save_official(model), found, saved


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_512_px_starts_from_256_px_as_the_authors_have_it(tmp_path: Path) -> None:
    """They load all tensors but key_scale and value_scale, which the new model has at 1 for its own tokens.

    Positions are no tensors of theirs: they follow from the grid.
    """
    theirs = published(STAGE_256, tmp_path / "in")
    found, report, saved = started(tmp_path / "in", STAGE_512, StartConfig(source="in", gates="restart"))
    gates = [name for name in theirs if name.endswith(("key_scale", "value_scale"))]
    tokens = STAGE_512.condition_tokens + STAGE_512.num_tokens
    expected = {name: torch.ones(1, 2, tokens, 1) if name in gates else value for name, value in theirs.items()}
    assert len(gates) == len(report.drawn) == len(report.left) == 2 * 2
    assert saved.config == STAGE_256
    assert_equal(found, expected)


def test_256_px_starts_from_softmax_weights_without_those_of_attention(tmp_path: Path) -> None:
    theirs = published(NOVA, tmp_path / "in")
    start = StartConfig(source="in", take="all_but_attention")
    found, report, saved = started(tmp_path / "in", STAGE_256, start)
    drawn = save_official(fresh(STAGE_256))
    assert_equal(found, {name: drawn[name] if ".attn." in name else theirs[name] for name in found})
    assert {name for name in theirs if name not in found} == set()
    assert all(".attn." in name for name in report.drawn + report.left)
    assert saved.config.num_heads == STAGE_256.num_heads


def test_gates_can_be_interpolated_instead(tmp_path: Path) -> None:
    theirs = published(STAGE_256, tmp_path / "in")
    found, report, _ = started(tmp_path / "in", STAGE_512, StartConfig(source="in"))
    assert len(report.interpolated) == 2 * 2
    name = "image_encoder.blocks.2.attn.key_scale"
    assert not (found[name] == 1).any()
    assert found[name].mean().item() == pytest.approx(theirs[name].mean().item(), abs=0.1)


def test_what_the_weights_do_not_show_is_assumed_as_the_new_model_has_it(tmp_path: Path) -> None:
    narrow = replace(NOVA, text_length=6, num_heads=4)
    published(narrow, tmp_path / "in")
    located = locate(str(tmp_path / "in"))
    saved = read_saved(located, like=replace(STAGE_256, text_length=6, num_heads=4))
    assert (saved.config.num_heads, saved.config.text_length, saved.config.latent_size) == (4, 6, (16, 16))
    assert [sentence.split(":")[0] for sentence in saved.assumptions[:2]] == ["text_length=6", "latent_size=[16,16]"]
    assert saved_config(located, like=replace(STAGE_256, num_heads=4)).num_heads == 4
    with pytest.raises(ValueError, match="number of heads at width 8 is not in the weights"):
        read_saved(located)


@pytest.mark.parametrize("form", ["parts", "pipeline", "compiled"])
def test_a_download_is_loaded_in_one_line_with_its_assumptions(form: str, tmp_path: Path) -> None:
    model = LINA(replace(STAGE_256, text_length=256))
    disturb(model)
    FORMS[form](tmp_path, {name: value.contiguous() for name, value in save_official(model).items()})
    with pytest.warns(UserWarning, match=r"not in the weights: text_length=256: .*; kind=linear.*; feature_map"):
        loaded = load(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    known = {"attention": {"kind": "linear", "feature_map": "relu"}, "text_length": 256}
    assert load(tmp_path, known=known).config == model.config


def test_a_softmax_download_is_loaded_as_what_it_is_known_to_be(tmp_path: Path) -> None:
    published(NOVA, tmp_path / "in")
    known = {"num_heads": 2, "latent_size": [16, 16], "text_length": 256, "attention": {"kind": "softmax"}}
    assert load(tmp_path / "in", known=known).config.decoder_blocks[0] == AttentionConfig(
        kind="softmax", conv="none", gate="none"
    )
