"""`data=shards data.path=FOLDER` suffices: what the manifest says is not typed again, and the cells are the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lina_lab import run
from lina_lab.commands.cache import COMMAND as CACHE
from lina_lab.config.command_line import CommandLine
from lina_lab.config.compose import compose
from lina_lab.study.fitting import fields_of_data
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.points import with_values

Capture = pytest.CaptureFixture[str]
OWN = """\
# @package _global_
study:
  question: Is it so?
  axes: {size: {model.dim: [16, 32]}}
  size_axis: size
  seeds: [0]
model: {latent_channels: 3, latent_size: [8, 8], num_heads: 4, condition_depth: 1, depth: 2, num_classes: null}
data: {name: shards, val_images: 4, val_batch_size: 2}
ema: {decay: 0.9, every_n_steps: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies/study").mkdir(parents=True)
    (tmp_path / "studies/study/own.yaml").write_text(OWN)
    return tmp_path


def shards(folder: Path, name: str, *more: str, captions: bool = False) -> str:
    """Shards of pixels, 3 x 8 x 8, of two classes or with captions."""
    for number in range(12):
        own = folder / f"{name}.in" / ("cat", "dog")[number % 2]
        own.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number * 9, np.uint8)).save(own / f"{number}.png")
        if captions:
            (own / f"{number}.json").write_text(json.dumps({"caption": f"picture {number}"}))
    assert CACHE.main([f"images={folder / f'{name}.in'}", f"out={folder / name}", "resolution=8", *more]) == 0
    return str(folder / name)


def planned(*arguments: str) -> tuple[Plan, dict[str, Any]]:
    found = compose(CommandLine(arguments))
    decided = fields_of_data(found.base, found.fixed)
    return make_plan(found.study, with_values(found.base, decided), found.overridden), decided


SMALL = ("data.val_images=4", "data.val_batch_size=2")
WORDS = ("text=words", "text_dim=24", "text_length=6")


def test_shape_and_classes_come_from_the_manifest(folder: Path) -> None:
    """For a study whose file is of other data; the cells are those of the fields set by hand."""
    line = ["study=kv_gate", "data=shards", f"data.path={shards(folder, 'classes')}", *SMALL]
    plan, decided = planned(*line)
    assert decided == {"model.latent_channels": 3, "model.num_classes": 2}
    by_hand, none = planned(*line, "model.latent_channels=3", "model.num_classes=2")
    assert (none, plan.digest()) == ({}, by_hand.digest())
    assert plan.cells[0].config == by_hand.cells[0].config


def test_texts_come_from_the_manifest(folder: Path) -> None:
    path = shards(folder, "texts", *WORDS, captions=True)
    plan, decided = planned("study=kv_gate", "data=shards", f"data.path={path}", *SMALL)
    text = {"model.num_classes": None, "model.text_dim": 24, "model.text_length": 6}
    assert decided == {"model.latent_channels": 3, **text}
    assert plan.cells[0].config.model.text_dim == 24
    # Another encoder of the file's own data does not encode these captions again.
    more = ["task=t2i", "sampling.caption_images=0", "study.objectives=[{metric:val/loss_ema}]", "model.patch_size=1"]
    again, decided = planned("study=kv_gate", "data=shards", f"data.path={path}", *SMALL, *more, "sampling.ar_steps=4")
    assert (again.cells[0].config.data.encoder, decided["data.encoder"]) == (None, None)


def test_captions_without_states_need_an_encoder(folder: Path, capsys: Capture) -> None:
    """And do not become a study without any condition."""
    line = ["study=kv_gate", "data=shards", f"data.path={shards(folder, 'bare', captions=True)}", *SMALL]
    assert run.main([*line, "action=plan"]) == 2
    sentence = "holds captions and no classes, which model.num_classes=10 needs: give data.encoder and model.text_dim"
    assert sentence in capsys.readouterr().err
    plan, _ = planned(*line, "data.encoder=words", "model.text_dim=16")
    assert (plan.cells[0].config.model.num_classes, plan.cells[0].config.model.text_dim) == (None, 16)


def test_what_the_user_set_stays_and_a_contradiction_is_one_sentence(folder: Path, capsys: Capture) -> None:
    line = ["study=kv_gate", "data=shards", f"data.path={shards(folder, 'classes')}", *SMALL]
    assert run.main([*line, "model.num_classes=3", "action=plan"]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "holds 2 classes, and model.num_classes=3" in printed.err
    assert "By its data: model.latent_channels=3." in printed.out
    assert run.main([*line, "action=plan"]) == 0
    assert "By its data: model.latent_channels=3, model.num_classes=2." in capsys.readouterr().out


def test_a_file_that_names_the_data_sets_their_fields(folder: Path, capsys: Capture) -> None:
    """Its values are the user's; those that it does not set are the manifest's."""
    path = shards(folder, "classes")
    assert planned("study=own", f"data.path={path}")[1] == {}
    assert planned("study=own", f"data.path={path}", "model.num_classes=2")[1] == {}
    own = folder / "studies/study/own.yaml"
    own.write_text(OWN.replace(", num_classes: null", "").replace("latent_channels: 3, ", ""))
    assert planned("study=own", f"data.path={path}")[1] == {"model.latent_channels": 3, "model.num_classes": 2}
    own.write_text(OWN.replace("latent_channels: 3", "latent_channels: 4"))
    assert run.main(["study=own", f"data.path={path}", "action=plan"]) == 2
    assert "holds latents [3, 8, 8], and the model needs [4, 8, 8]" in capsys.readouterr().err


def test_what_fits_stays_as_it_was(folder: Path) -> None:
    """A text may have more positions than the longest caption: such a study keeps its cells."""
    path = shards(folder, "texts", *WORDS, captions=True)
    line = ["study=own", f"data.path={path}", "model.text_dim=24"]
    plan, decided = planned(*line)
    assert (plan.cells[0].config.model.text_length, decided) == (256, {})


def test_data_that_are_not_there_are_named_as_ever(folder: Path, capsys: Capture) -> None:
    (folder / "empty").mkdir()
    for path in ("nowhere", "empty"):
        line = ["study=kv_gate", "data=shards", f"data.path={path}", *SMALL]
        assert planned(*line)[1] == {}
        assert run.main([*line, "action=plan"]) == 2
        assert f"{path}/manifest.json is not there: make shards with lina cache" in capsys.readouterr().err
