"""Files of a cell that are not what was written there: each is named in one sentence, or done without."""

from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import ResourcesConfig, SlurmConfig
from lina_lab.launch.contract import EngineName, LaunchSpec, read_notes, read_outcome, read_progress, refuse_job
from lina_lab.launch.slurm import setup_lines
from lina_lab.records.curve import append_points, read_curve
from lina_lab.records.record import begin_attempt, read_record
from lina_lab.training.checkpoints import newest
from lina_lab.training.mlflow_buffer import deliver_unsent
from lina_lab.util.errors import StudyError
from lina_lab.util.files import read_json

NO_TEXT = b"\xff\xfe\x00\x80"


def damage(path: Path, how: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "folder":
        path.mkdir()
    else:
        path.write_bytes({"no text": NO_TEXT, "cut": b'{"a": ', "empty": b""}[how])


HOW = ["folder", "no text", "cut", "empty"]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_file_is_named_in_one_sentence(tmp_path: Path, how: str) -> None:
    damage(tmp_path / "a.json", how)
    with pytest.raises(ValueError, match=r"a\.json is (damaged|a folder where a file should be).*: remove it$"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["group.json", "outcome.json", "progress.json", "job.json", "logs/rank-0.json"])
def test_each_file_of_a_group_is_named_when_it_is_damaged(tmp_path: Path, name: str, how: str) -> None:
    spec = LaunchSpec(attempt="a", engine=EngineName.TORCHRUN, tracking=None, resources=ResourcesConfig())
    read: dict[str, Any] = {
        "group.json": lambda: LaunchSpec.read(tmp_path),
        "outcome.json": lambda: read_outcome(tmp_path, spec),
        "progress.json": lambda: read_progress(tmp_path),
        "job.json": lambda: refuse_job(tmp_path),
        "logs/rank-0.json": lambda: read_notes(tmp_path, "a"),
    }
    damage(tmp_path / name, how)
    with pytest.raises(ValueError, match=rf"{name} is (damaged|a folder where a file should be).*: remove it$"):
        read[name]()


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_record_or_note_of_a_cell_costs_an_attempt_at_most(tmp_path: Path, how: str) -> None:
    damage(tmp_path / "result.json", how)
    assert read_record(tmp_path, "a") is None
    if how == "folder":
        return
    damage(tmp_path / "mlflow_run.txt", how)
    damage(tmp_path / "curve.jsonl", "no text")
    (tmp_path / "step-00000001.ckpt").write_bytes(b"of which run is not known")
    begin_attempt(tmp_path, "run")
    assert (tmp_path / "mlflow_run.txt").read_text() == "run\n"
    assert not (tmp_path / "step-00000001.ckpt").exists()


@pytest.mark.parametrize("how", HOW)
def test_a_checkpoint_whose_hash_is_damaged_is_passed_over(tmp_path: Path, how: str) -> None:
    (tmp_path / "step-00000001.ckpt").write_bytes(b"whole")
    damage(tmp_path / "step-00000001.ckpt.sha256", how)
    found, problems = newest(tmp_path)
    assert found is None
    assert problems == ["step-00000001.ckpt is damaged: its contents are not what was written"]


class Client:
    """An MLflow store that has nothing yet."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def get_metric_history(self, run_id: str, name: str) -> list[Any]:
        return []

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self.steps += [metric.step for metric in metrics]


def test_metrics_that_wait_in_a_damaged_file_are_taken_from_the_curve(tmp_path: Path) -> None:
    append_points(tmp_path, [("a", 1.0, 1, 0), ("a", 2.0, 2, 0)])
    damage(tmp_path / "unsent.jsonl", "no text")
    client: Any = Client()
    deliver_unsent(client, "run", tmp_path)
    assert client.steps == [1, 2]
    assert not (tmp_path / "unsent.jsonl").exists()
    damage(tmp_path / "unsent.jsonl", "no text")
    (tmp_path / "curve.jsonl").unlink()
    with pytest.raises(ValueError, match=r"unsent\.jsonl is damaged .*: remove it, and the curve lacks what it held"):
        deliver_unsent(client, "run", tmp_path)


@pytest.mark.parametrize("how", ["folder", "no text"])
def test_a_curve_that_cannot_be_read_is_none(tmp_path: Path, how: str) -> None:
    damage(tmp_path / "curve.jsonl", how)
    assert read_curve(tmp_path) is None


def test_a_job_s_setup_that_is_no_text_is_named(tmp_path: Path) -> None:
    damage(tmp_path / "setup.sh", "no text")
    with pytest.raises(StudyError, match=r"slurm\.setup=.*setup\.sh cannot be read: .*can't decode"):
        setup_lines(SlurmConfig(setup=str(tmp_path / "setup.sh")))


def test_a_library_s_error_without_a_message_is_told_by_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lina_lab.model import download, official

    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"")

    def fails(*arguments: Any, **keywords: Any) -> None:
        raise EOFError

    monkeypatch.setattr(download.torch, "load", fails)
    with pytest.raises(ValueError, match=r"cannot be read: EOFError$"):
        official.read_official(tmp_path)
