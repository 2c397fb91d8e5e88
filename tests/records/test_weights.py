"""Weights are found by what a user names, and their hash stands for them wherever they lie."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lina_lab.records.weights import STEM, Kind, locate
from lina_lab.util.files import sha256


def checkpoint(path: Path, value: float = 0.0, *, digest: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {"model.a": torch.full((200,), value)}, "hyper_parameters": {}}, path)
    if digest:
        path.with_name(path.name + ".sha256").write_text(sha256(path) + "\n")
    return path


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_cell_s_folder_means_its_newest_checkpoint(tmp_path: Path) -> None:
    checkpoint(tmp_path / "step-00000002.ckpt")
    newest = checkpoint(tmp_path / "step-00000010.ckpt", 1.0)
    found = locate(str(tmp_path))
    assert (found.path, found.kind, found.sha256) == (newest, Kind.CHECKPOINT, sha256(newest))
    assert locate(str(newest)) == found


@pytest.mark.parametrize("damage", ["torn", "no digest"])
def test_a_checkpoint_that_is_not_whole_gives_way_to_an_older_one(tmp_path: Path, damage: str) -> None:
    older = checkpoint(tmp_path / "step-00000002.ckpt")
    newest = checkpoint(tmp_path / "step-00000010.ckpt", digest=damage != "no digest")
    if damage == "torn":
        tear(newest)
    assert locate(str(tmp_path)).path == older


def test_half_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "step-00000002.ckpt")
    tear(path)
    for source in (path, tmp_path):
        with pytest.raises(ValueError, match=r"step-00000002\.ckpt is not a whole checkpoint of a trial: its end is"):
            locate(str(source))


def test_a_checkpoint_copied_alone_under_another_name_is_one(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "best.ckpt", digest=False)
    found = locate(str(path))
    assert (found.kind, found.sha256) == (Kind.CHECKPOINT, sha256(path))


def test_a_model_s_folder_and_its_file_are_the_same_weights(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("dim: 8\n")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    found = locate(str(tmp_path))
    assert (found.path, found.kind) == (tmp_path, Kind.MODEL)
    assert found.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert locate(str(tmp_path / "model.safetensors")) == found


def whole(folder: Path) -> Path:
    (folder / f"{STEM}.safetensors").write_bytes(b"weights")
    return folder / f"{STEM}.safetensors"


def pipeline(folder: Path) -> Path:
    (folder / "transformer").mkdir()
    return whole(folder / "transformer")


def pickled(folder: Path) -> Path:
    torch.save({"a": torch.zeros(1)}, folder / f"{STEM}.bin")
    return folder / f"{STEM}.bin"


@pytest.mark.parametrize("form", [whole, pipeline, pickled])
def test_a_download_is_found_in_its_folder(tmp_path: Path, form: Callable[[Path], Path]) -> None:
    path = form(tmp_path)
    found = locate(str(tmp_path))
    assert (found.path, found.kind, found.sha256) == (path, Kind.OFFICIAL, sha256(path))
    assert locate(str(path)) == found


def test_pickled_weights_that_end_as_checkpoints_do_are_none(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "theirs.ckpt")
    assert locate(str(tmp_path / "theirs.ckpt")).kind == Kind.OFFICIAL


def parts(folder: Path, *contents: bytes) -> None:
    names = [f"{STEM}-{i}.bin" for i in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)
    (folder / f"{STEM}.bin.index.json").write_text(json.dumps({"weight_map": {name: name for name in names}}))


def test_the_hash_of_weights_in_parts_is_that_of_all_parts(tmp_path: Path) -> None:
    for name, contents in {"one": (b"a", b"b"), "same": (b"a", b"b"), "other": (b"a", b"c")}.items():
        (tmp_path / name).mkdir()
        parts(tmp_path / name, *contents)
    one, same, other = (locate(str(tmp_path / name)).sha256 for name in ("one", "same", "other"))
    assert one == same != other
    (tmp_path / "one" / f"{STEM}-1.bin").unlink()
    with pytest.raises(ValueError, match=f"lacks {STEM}-1.bin, a part of the weights"):
        locate(str(tmp_path / "one"))


def test_a_file_that_changed_has_another_hash(tmp_path: Path) -> None:
    path = whole(tmp_path)
    before = locate(str(path)).sha256
    path.write_bytes(b"other weights")
    assert locate(str(path)).sha256 != before


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not there: no file and no folder has this name"):
        locate(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="holds neither a model nor a checkpoint"):
        locate(str(tmp_path))
    (tmp_path / "mine.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"if mine\.safetensors holds the weights, give that file"):
        locate(str(tmp_path))


def test_a_run_in_mlflow_is_the_cell_whose_folder_notes_it(tmp_path: Path) -> None:
    for cell, run in {"0123456789ab": "abc", "ba9876543210": "def"}.items():
        checkpoint(tmp_path / "some_study" / cell / "step-00000002.ckpt")
        (tmp_path / "some_study" / cell / "mlflow_run.txt").write_text(f"{run}\n")
    assert locate("runs:/def", tmp_path) == locate(str(tmp_path / "some_study/ba9876543210"))
    with pytest.raises(
        ValueError, match=r"runs:/nonsense is not the run of a cell under .*: the run is another tool's"
    ):
        locate("runs:/nonsense", tmp_path)
