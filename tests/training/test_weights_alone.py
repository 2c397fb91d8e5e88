"""Weights alone, which a finished cell may keep of a checkpoint, do what the checkpoint's weights did."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lina_lab.config import TrialConfig
from lina_lab.evaluation.weights import load_trained
from lina_lab.records.checkpoints import checkpoint_files, weights_files
from lina_lab.records.weights import locate
from lina_lab.training.checkpoints import newest
from lina_lab.training.start import initial, planned_problem, stage_problem
from lina_lab.training.trial import run_trial
from lina_lab.training.weights_alone import keep_weights_alone

Tiny = Callable[..., TrialConfig]


@pytest.fixture
def cell(source: Path, tmp_path: Path) -> Path:
    """The folder of a finished trial whose newest checkpoint is reduced, and the older one removed."""
    folder = tmp_path / "study" / "cell"
    shutil.copytree(source, folder)
    reduce(folder)
    return folder


def reduce(folder: Path) -> Path:
    older, newer = checkpoint_files(folder).values()
    older.unlink()
    return keep_weights_alone(newer)


def test_they_are_known_by_the_hash_of_their_checkpoint_and_hold_the_same_weights(source: Path, cell: Path) -> None:
    """A trial that starts from them has the config hash that it would have had before."""
    name = max(checkpoint_files(source).values()).name
    for before, after in ((source, cell), (source / name, cell / name), (source / name, *weights_files(cell).values())):
        for which in ("ema", "raw"):
            one, other = (load_trained(each, which) for each in (before, after))  # type: ignore[arg-type]
            assert other.sha256 == one.sha256 == locate(str(before)).sha256 == locate(str(after)).sha256
            assert other.encoder_sha256 == one.encoder_sha256
            states = one.model.state_dict(), other.model.state_dict()
            assert all(torch.equal(value, states[1][part]) for part, value in states[0].items())


def test_they_are_about_half_as_large(source: Path, cell: Path) -> None:
    (file,) = weights_files(cell).values()
    saved = torch.load(file, weights_only=True)
    assert {"state_dict", "current_model_state", "hyper_parameters", "global_step", "callbacks"} <= saved.keys()
    assert not {"optimizer_states", "lr_schedulers", "loops"} & saved.keys()
    whole = max(checkpoint_files(source).values()).stat().st_size
    assert file.stat().st_size < 0.65 * whole


def test_a_trial_starts_from_them_as_from_their_checkpoint(
    source: Path, cell: Path, tiny: Tiny, tmp_path: Path
) -> None:
    found = {}
    for name, folder in (("whole", source), ("alone", cell)):
        (tmp_path / name).mkdir()
        result = run_trial(tiny(start={"source": str(folder)}, seed=1), tmp_path / name)
        found[name] = result.metrics
    assert found["whole"] == found["alone"]


@pytest.mark.parametrize("state", ["optimizer", "training"])
def test_what_needs_the_optimizer_s_state_is_refused_in_one_sentence(
    cell: Path, tiny: Tiny, tmp_path: Path, state: str
) -> None:
    trainer = {"max_images": 128}
    sentence = (
        f"start.state={state} needs the optimizer's state: {{}} keeps weights alone when it is done "
        "(checkpoint.finished=weights)"
    )
    config = tiny(start={"source": str(cell), "state": state}, trainer=trainer)
    assert planned_problem(config) == f"start.source: {sentence.format(cell)}"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence.format(cell))}$"):
        initial(config, tmp_path)
    staged = tiny(start={"cell": "0" * 12, "state": state}, trainer=trainer)
    assert stage_problem(staged, tiny(checkpoint={"finished": "weights"})) == sentence.format("the source")
    assert stage_problem(staged, tiny()) is None


def test_a_cell_of_the_same_study_starts_from_them(cell: Path, tiny: Tiny) -> None:
    start = initial(tiny(start={"cell": cell.name}), cell.parent / "other")
    assert start is not None
    assert start.saved is not None
    assert start.saved.checkpoint["global_step"] == 4


def test_a_trial_does_not_resume_from_them(cell: Path) -> None:
    assert newest(cell) == (None, [])


@pytest.mark.parametrize("part", ["contents", "end"])
def test_damage_is_seen(cell: Path, tiny: Tiny, part: str) -> None:
    (file,) = weights_files(cell).values()
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents if part == "contents" else contents[:-100])
    with pytest.raises(ValueError, match="is not a whole checkpoint of a trial"):
        load_trained(cell)
    with pytest.raises(ValueError, match="has no whole checkpoint"):
        initial(tiny(start={"cell": cell.name}), cell.parent / "other")


@pytest.mark.parametrize("trouble", ["damaged", "full disk"])
def test_a_checkpoint_stays_that_cannot_be_reduced(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    folder = tmp_path / "cell"
    shutil.copytree(source, folder)
    newer = max(checkpoint_files(folder).values())
    if trouble == "damaged":
        newer.write_bytes(newer.read_bytes()[:-1])
        with pytest.raises(ValueError, match="is no whole checkpoint of a trial: it stays as it is"):
            keep_weights_alone(newer)
    else:

        def full(state: Any, path: Path) -> None:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr("lina_lab.training.weights_alone.save_file", full)
        with pytest.raises(OSError, match="No space left"):
            keep_weights_alone(newer)
    assert newer.exists()
    assert weights_files(folder) == {}
    assert not list(folder.glob("*.draft"))
