"""What the present policy does not keep is removed; what a cell needs to go on is not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lina_lab.config import CheckpointConfig, TrialConfig
from lina_lab.config.compose import CommandLine
from lina_lab.records.checkpoints import (
    Best,
    checkpoint_file,
    checkpoint_files,
    digest_file,
    is_whole,
    read_best,
    shards_folder,
    weights_files,
    write_best,
    write_hashes,
)
from lina_lab.records.record import Record, write_record
from lina_lab.records.result import TrialResult
from lina_lab.records.status import CellStatus
from lina_lab.study.grid import make_plan
from lina_lab.study.lease import Lease
from lina_lab.study.plan import describe
from lina_lab.study.tidying import surplus, tidy, tidy_cells
from lina_lab.util.files import sha256
from tests.study.conftest import RESULT, Lab, workspace_at

STEPS = range(10, 101, 10)


def checkpoint(folder: Path, step: int) -> Path:
    """A whole checkpoint, of which half is weights."""
    folder.mkdir(exist_ok=True, parents=True)
    path, numbers = checkpoint_file(folder, step), torch.arange(1000.0)
    torch.save({"state_dict": numbers, "optimizer_states": numbers + step, "global_step": step}, path)
    digest_file(path).write_text(sha256(path) + "\n")
    return path


def cell_folder(folder: Path, status: CellStatus | None, steps: Any = STEPS, name: str = "ab12cd34ef56") -> Path:
    """The folder of a cell with batches of 10 images."""
    folder = folder / name
    for step in steps:
        checkpoint(folder, step)
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"batch_size": 10}}))
    if status is not None:
        result = RESULT if status is CellStatus.DONE else None
        write_record(folder, Record(config_hash=name, axes={}, seed=0, status=status, mlflow_run="run", result=result))
    return folder


KEPT: dict[str, tuple[dict[str, Any], list[int], list[int], list[int]]] = {
    # policy -> whole ones of an open cell; whole ones and weights alone of one that is done
    "the last two": ({}, [90, 100], [90, 100], []),
    "milestones": ({"keep_every_images": 500, "keep_last": 1}, [50, 100], [50, 100], []),
    "the best": ({"keep_best": "val/loss_ema", "keep_last": 1}, [30, 100], [30, 100], []),
    "the best of another metric": ({"keep_best": "val/loss_raw", "keep_last": 1}, [100], [100], []),
    "weights": ({"finished": "weights"}, [90, 100], [], [100]),
    "weights of several": (
        {"finished": "weights", "keep_best": "val/loss_ema", "keep_every_images": 500},
        [30, 50, 90, 100],
        [],
        [30, 50, 100],
    ),
}


@pytest.mark.parametrize(("policy", "opened", "whole", "alone"), KEPT.values(), ids=KEPT)
def test_a_cell_keeps_what_the_policy_says(
    tmp_path: Path, policy: dict[str, Any], opened: list[int], whole: list[int], alone: list[int]
) -> None:
    config = CheckpointConfig(**policy)
    for done, kept, reduced in ((False, opened, []), (True, whole, alone)):
        folder = cell_folder(tmp_path / str(done), None)
        write_best(folder, Best("val/loss_ema", 0.5, 30))
        sizes = sum(path.stat().st_size for path in folder.glob("step-*"))
        found, freed = tidy(folder, config, 10, done=done)
        assert (list(checkpoint_files(folder)), list(weights_files(folder))) == (kept, reduced)
        assert freed == sizes - sum(path.stat().st_size for path in folder.glob("step-*"))
        assert len(found.deleted) + len(found.reduced) == len(STEPS) - len(kept)
        assert len(list(folder.glob("*.sha256"))) == len(kept) + len(reduced)
        assert not surplus(folder, config, 10, done=done)


def test_weights_alone_are_removed_when_the_policy_keeps_them_no_longer(tmp_path: Path) -> None:
    folder = cell_folder(tmp_path, None)
    tidy(folder, CheckpointConfig(finished="weights", keep_every_images=500), 10, done=True)
    assert list(weights_files(folder)) == [50, 100]
    tidy(folder, CheckpointConfig(), 10, done=True)
    assert list(weights_files(folder)) == [50, 100]  # the last two
    tidy(folder, CheckpointConfig(keep_last=1), 10, done=True)
    assert list(weights_files(folder)) == [100]


def test_shards_go_and_stay_with_their_checkpoint_and_count_as_its_bytes(tmp_path: Path) -> None:
    folder = cell_folder(tmp_path, None, steps=[10, 20])
    for step in (10, 20):
        path = checkpoint_file(folder, step)
        shard = shards_folder(path) / "__0_0.distcp"
        shard.parent.mkdir()
        shard.write_bytes(bytes(5000))
        write_hashes(path, sha256(path), {shard.name: sha256(shard)})
    gone = checkpoint_file(folder, 10)
    freed = 5000 + gone.stat().st_size + digest_file(gone).stat().st_size
    assert tidy(folder, CheckpointConfig(keep_last=1), 10, done=False)[1] == freed
    assert [path.name for path in folder.glob("*.shards")] == ["step-00000020.ckpt.shards"]
    assert is_whole(checkpoint_file(folder, 20))


@pytest.mark.parametrize("done", [False, True])
def test_the_only_whole_checkpoint_stays_whatever_the_policy_says(tmp_path: Path, done: bool) -> None:
    folder = cell_folder(tmp_path, None)
    for step in STEPS:
        if step not in (20, 40):
            checkpoint_file(folder, step).write_bytes(b"half of it")
    tidy(folder, CheckpointConfig(keep_last=1), 10, done=done)
    assert list(checkpoint_files(folder)) == [40, 100]
    assert is_whole(checkpoint_file(folder, 40))


def test_what_a_killed_process_left_of_a_write_goes(tmp_path: Path) -> None:
    folder = cell_folder(tmp_path, None, steps=[10, 20])
    for name in ("step-00000030.ckpt.draft", "step-00000030.ckpt.sha256", "step-00000010.weights.ckpt.draft"):
        (folder / name).write_text("x")
    for name in ("step-00000030.ckpt.shards", "step-00000040.ckpt.shards.draft"):
        (folder / name).mkdir()
        (folder / name / "__0_0.distcp").write_text("x")
    (folder / "samples.png").write_text("x")
    tidy(folder, CheckpointConfig(), 10, done=False)
    steps = ("step-00000010.ckpt", "step-00000020.ckpt")
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "samples.png"),
        *steps,
        *(f"{name}.sha256" for name in steps),
    }


def test_every_cell_says_what_it_lost_and_a_running_one_loses_nothing(tmp_path: Path) -> None:
    open_cell = cell_folder(tmp_path, CellStatus.INTERRUPTED, name="aaaaaaaaaaaa")
    done = cell_folder(tmp_path, CellStatus.DONE, name="bbbbbbbbbbbb")
    running = cell_folder(tmp_path, None, name="cccccccccccc")
    tight = cell_folder(tmp_path, CellStatus.FAILED, steps=[10], name="dddddddddddd")
    broken = cell_folder(tmp_path, CellStatus.FAILED, name="eeeeeeeeeeee")
    (broken / "config.yaml").write_text("[")
    folders = [(path, path.name[0]) for path in (open_cell, done, running, tight, broken, tmp_path / "none")]
    lease = Lease.take(running)
    assert lease is not None
    try:
        lines = list(tidy_cells(folders, CheckpointConfig(finished="weights"), "tiny"))
    finally:
        lease.release()
    assert [line.split(",")[0] for line in lines[:2]] == [
        "aaaaaaaaaaaa a: 8 of its checkpoints deleted",
        "bbbbbbbbbbbb b: 9 of its checkpoints deleted",
    ]
    assert ", 1 reduced to the weights, " in lines[1]
    assert lines[2].startswith("eeeeeeeeeeee e: left as it is: ")
    assert lines[3].startswith("tiny: ")
    assert lines[3].endswith(" freed in 2 cells; 1 running cells stay as they are")
    assert list(checkpoint_files(open_cell)) == [90, 100]
    assert list(weights_files(done)) == [100]
    assert len(checkpoint_files(running)) == len(checkpoint_files(broken)) == 10
    assert not (tmp_path / "none").exists()
    again = list(tidy_cells(folders[:2], CheckpointConfig(finished="weights"), "tiny"))
    assert again == ["tiny: nothing to prune"]


def saving(lab: Lab, steps: Any = (2, 4)) -> Callable[[TrialConfig], TrialResult]:
    """A trainer that leaves checkpoints."""

    def train(config: TrialConfig) -> TrialResult:
        for step in steps:
            checkpoint(lab.runs / lab.plan.study.name / config.config_hash(), step)
        return RESULT

    return train


def test_a_cell_that_is_done_keeps_weights_alone_and_the_policy_may_change(
    lab: Lab, tiny_study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """While a study goes on, without a refusal; `lina prune` then does to older cells what the new policy says."""
    from lina_lab.commands.stored_study import main

    lab.behaviour = saving(lab)
    lab.run()
    folders = [lab.runs / "tiny" / cell.config_hash for cell in lab.plan.cells]
    assert all(list(checkpoint_files(folder)) == [2, 4] for folder in folders)
    study, base = tiny_study(seeds=[0, 1])
    base["checkpoint"] |= {"finished": "weights"}
    lab.plan = make_plan(study, base)
    lab.behaviour = saving(lab)
    assert "`lina prune` would delete 4 checkpoints (" in describe(workspace_at(lab.runs, lab.plan))
    assert lab.run().counts == {"done": 8}
    assert len(lab.trained) == 8
    new = [lab.runs / "tiny" / cell.config_hash for cell in lab.plan.cells if cell.config.seed == 1]
    assert all((list(checkpoint_files(f)), list(weights_files(f))) == ([], [4]) for f in new)
    assert all(list(checkpoint_files(folder)) == [2, 4] for folder in folders)

    arguments = ["study=tiny", f"paths.runs={lab.runs}", "action=prune"]
    assert main(CommandLine([*arguments, "checkpoint.finished=all", "checkpoint.keep_last=1", "model.dim=8"])) == 0
    assert capsys.readouterr().out.endswith(" freed in 2 cells\n")
    assert sorted(len(checkpoint_files(folder)) for folder in folders) == [1, 1, 2, 2]
    assert main(CommandLine(arguments)) == 0
    assert capsys.readouterr().out.endswith(" freed in 4 cells\n")
    assert all((list(checkpoint_files(f)), list(weights_files(f))) == ([], [4]) for f in folders)
    assert "lina prune" not in describe(workspace_at(lab.runs, lab.plan))


def test_a_checkpoint_that_cannot_be_reduced_fails_no_cell(
    lab: Lab, tiny_study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, base = tiny_study()
    base["checkpoint"] |= {"finished": "weights"}
    lab.plan = make_plan(study, base)
    lab.behaviour = saving(lab)

    def full(path: Path) -> Path:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("lina_lab.training.weights_alone.keep_weights_alone", full)
    assert lab.run().counts == {"done": 4}
    assert "its checkpoints stay as they are: [Errno 28] No space left on device" in lab.lines
    assert all(checkpoint_files(lab.runs / "tiny" / cell.config_hash) for cell in lab.plan.cells)


def test_a_note_of_the_best_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert read_best(tmp_path) is None
    (tmp_path / "best.json").write_text("{")
    assert read_best(tmp_path) is None
    shutil.rmtree(tmp_path)
