"""A folder of runs that is moved or copied: what is in it stays together, and nothing appears where it was."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from lina_lab.commands import ui
from lina_lab.util.compat.mlflow import relocate_artifacts
from tests.study.conftest import RESULT, Lab, raising, second_only


def files_of(runs: Path, run_id: str) -> list[str]:
    return sorted(file.path for file in MlflowClient(f"sqlite:///{runs / 'mlflow.db'}").list_artifacts(run_id))


def forget() -> None:
    """As a new process: MLflow keeps where a run's artifacts are for as long as a process lives."""
    _artifact_repos_cache.clear()


@pytest.mark.parametrize("how", ["moved", "copied", "moved, and the old place is a file"])
def test_a_study_goes_on_where_its_folder_is_now(lab: Lab, how: str, tmp_path: Path) -> None:
    lab.behaviour = second_only(lab.plan, raising(RuntimeError("boom")))
    lab.run()
    old, new = lab.runs, tmp_path / "else where" / "runs"
    new.parent.mkdir()
    (shutil.copytree if how == "copied" else shutil.move)(old, new)
    if how.endswith("file"):
        old.write_text("in the way")
    forget()
    before = sorted(old.rglob("*"))
    lab.runs, lab.behaviour = new, lambda config: RESULT
    lab.run()
    assert lab.states() == ["done"] * 4
    assert sorted(old.rglob("*")) == before
    for run in lab.cell_runs():
        assert str(run.info.artifact_uri).startswith((new / "mlartifacts").as_uri())
        assert {"config.yaml", "result.json"} <= set(files_of(new, run.info.run_id))


def test_addresses_elsewhere_and_other_names_of_the_same_folder_stay(lab: Lab, tmp_path: Path) -> None:
    lab.run()
    client = MlflowClient(f"sqlite:///{lab.runs / 'mlflow.db'}")
    bucket = client.create_experiment("bucket", "s3://bucket/mlartifacts")
    (tmp_path / "mounted").symlink_to(lab.runs)
    mounted = client.create_experiment("mounted", (tmp_path / "mounted" / "mlartifacts").as_uri())
    runs = [run.info.artifact_uri for run in lab.cell_runs()]
    relocate_artifacts(lab.runs / "mlflow.db")
    assert client.get_experiment(bucket).artifact_location == "s3://bucket/mlartifacts"
    assert client.get_experiment(mounted).artifact_location == (tmp_path / "mounted" / "mlartifacts").as_uri()
    assert [run.info.artifact_uri for run in lab.cell_runs()] == runs


def test_the_user_interface_shows_the_pictures_of_a_moved_folder(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.run()
    lab.runs = Path(shutil.move(lab.runs, tmp_path / "moved"))
    forget()
    monkeypatch.setattr("os.execv", lambda *_: None)
    ui.run(ui.UiConfig(runs=str(lab.runs)))
    for run in lab.cell_runs():
        assert "result.json" in files_of(lab.runs, run.info.run_id)
