"""A study by its name alone: from its stores and the folders of its cells."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lina_lab import cli
from lina_lab.records.result import Progress
from lina_lab.records.status import CellStatus
from lina_lab.study.grid import make_plan
from lina_lab.study.status import look
from lina_lab.study.store import Store
from lina_lab.study.stored import StoredStudy
from tests.study.conftest import RESULT, Lab, raising, second_only, store_at


def lina(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def state(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, err = lina(capsys, "status", *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.fixture
def failing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A study whose second cell has failed, looked at from its own folder."""
    monkeypatch.chdir(lab.runs.parent)
    lab.behaviour = second_only(lab.plan, raising(RuntimeError("boom")))
    lab.run()
    return lab


def test_status_needs_the_name_alone(failing: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """There is no file of a study `tiny` here: the stores know what it varied."""
    code, out, err = lina(capsys, "status", f"study={failing.plan.study.name}")
    assert (code, err) == (0, "")
    name, lines = failing.plan.study.name, out.splitlines()
    assert lines[0].startswith(f"{name}: 3 done, 1 failed") or lines[0].startswith(f"{name}: 1 failed, 3 done")
    failed = failing.plan.cells[1]
    assert any(failed.config_hash in line and "boom" in line for line in lines)
    row = next(line for line in lines if "normalization=division dim=16 seed=0" in line)
    assert row.split()[:2] == [failed.config_hash, "failed"]
    done = next(line for line in lines if "normalization=division dim=8 seed=0" in line)
    assert "64 of 64" in done
    assert "0.5000" in done
    assert "100" in done


def test_a_column_that_says_nothing_is_not_shown(failing: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = lina(capsys, "status", f"study={failing.plan.study.name}")
    assert re.split(" {2,}", out.splitlines()[1].strip()) == [
        *("id", "state", "cell", "images", "loss", "images/s", "since")
    ]


def test_status_as_json_lists_every_cell(failing: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    found = state(capsys, f"study={failing.plan.study.name}")
    assert found["counts"] == {"done": 3, "failed": 1}
    assert [cell["id"] for cell in found["cells"]] == [cell.config_hash for cell in failing.plan.cells]
    done = found["cells"][0]
    assert done["label"] == "normalization=division dim=8 seed=0"
    assert done["fields"] == {"model.attention.normalization": "division", "model.dim": 8, "seed": 0}
    assert (done["images"], done["total_images"], done["loss"], done["images_per_second"]) == (64, 64, 0.7, 100.0)
    assert done["objectives"] == {"val/loss_ema": 0.5}
    assert datetime.now(UTC) - datetime.fromisoformat(done["since"]) < timedelta(minutes=5)
    assert "boom" in found["cells"][1]["error"]


def test_all_studies_of_a_folder_are_shown_without_a_name(
    failing: Lab, tiny_study: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    study, base = tiny_study(name="other")
    store_at(failing.runs, make_plan(study, base)).enqueue()
    code, out, _ = lina(capsys, "status")
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == sorted(["other", failing.plan.study.name])
    assert len(state(capsys)) == 2
    code, _, err = lina(capsys, "cancel")
    assert code == 1
    assert f"those under {failing.runs} are other, {failing.plan.study.name}" in err


def test_a_study_that_does_not_exist_is_refused_with_those_that_do(
    failing: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = lina(capsys, "status", "study=nothing")
    assert code == 1
    assert f"there is no study nothing under {failing.runs}: those under it are {failing.plan.study.name}" in err
    before = sorted(failing.runs.parent.rglob("*.db"))
    code, _, err = lina(capsys, "status", "study=nothing", "paths.runs=elsewhere")
    assert code == 1
    assert "run it first, or give paths.runs=FOLDER" in err
    assert sorted(failing.runs.parent.rglob("*.db")) == before


def test_fields_that_the_study_was_run_with_may_be_repeated_or_left_out(
    failing: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    name = failing.plan.study.name
    assert state(capsys, f"study={name}", "optimizer.lr=0.5", "model.depth=4") == state(capsys, f"study={name}")
    code, _, err = lina(capsys, "status", f"study={name}", "model.dimm=4")
    assert code == 2
    assert "did you mean model.dim?" in err


def test_values_of_what_is_varied_choose_cells(failing: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    name = failing.plan.study.name
    assert [cell["fields"]["model.dim"] for cell in state(capsys, f"study={name}", "model.dim=8")["cells"]] == [8, 8]
    assert state(capsys, f"study={name}", "seed=1")["cells"] == []
    _, out, _ = lina(capsys, "retry", f"study={name}", "model.dim=8")
    assert out == "none of these cells has failed or was cancelled\n"


def test_a_failed_cell_is_queued_again_by_its_id_and_trained(failing: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    failed = failing.plan.cells[1].config_hash
    code, out, _ = lina(capsys, "retry", f"study={failing.plan.study.name}", f"cells=[{failed[:5]}]")
    assert (code, out) == (0, f"queued again: {failed} normalization=division dim=16 seed=0\n")
    assert failing.states() == ["done", "waiting", "done", "done"]
    failing.behaviour = lambda config: RESULT
    failing.run(joins=True)
    assert failing.states() == ["done"] * 4
    code, _, err = lina(capsys, "retry", f"study={failing.plan.study.name}", "cells=[zzz]")
    assert code == 1
    assert f"no cell of the study begins with zzz; lina status study={failing.plan.study.name} lists them" in err


def test_an_id_that_looks_like_a_number_is_one_of_its_digits(failing: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("3326", "7e10", "012"):
        _, _, err = lina(capsys, "status", f"study={failing.plan.study.name}", f"cells=[{text}]")
        assert f"begins with {text};" in err


def test_a_runaway_study_is_cancelled_by_its_name(failing: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(store_at(failing.runs, failing.plan).workspace)
    store.enqueue()
    claim = store.claim()
    assert claim is not None
    code, out, err = lina(capsys, "cancel", f"study={failing.plan.study.name}")
    assert (code, err) == (0, "")
    assert out == f"cancelled, or asked to end: {claim.cell.config_hash} normalization=division dim=16 seed=0\n"
    assert (store.folder / claim.cell.config_hash / "cancel").exists()
    store.end(claim, CellStatus.INTERRUPTED)
    lina(capsys, "cancel", f"study={failing.plan.study.name}")
    assert failing.states() == ["done", "cancelled", "done", "done"]


def test_a_running_cell_says_how_far_it_is_where_and_since_when(
    failing: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_at(failing.runs, failing.plan)
    store.enqueue()
    claim = store.claim()
    assert claim is not None
    figures = {
        "step": 2,
        "learning_rate": 1e-3,
        "gradient_norm": 12.5,
        "loss_spikes": 3,
        "images_per_second": 8.0,
        "share_of_peak": 0.425,
        "memory_mib": 2048.0,
        "seconds_left": 4000.0,
    }
    claim.lease.progress(Progress(images=32, loss=0.25, total_images=64, **figures))  # type: ignore[arg-type]
    claim.lease._write(1)
    (store.folder / claim.cell.config_hash / "job.json").write_text('{"job": "17", "attempt": "x"}')
    study = failing.plan.study.name
    shown = next(cell for cell in state(capsys, f"study={study}")["cells"] if cell["state"] == "running")
    assert (shown["images"], shown["loss"], shown["job"]) == (32, 0.25, "17")
    assert {name: shown[name] for name in figures} == figures
    assert not shown["stale"]
    _, out, _ = lina(capsys, "status", f"study={study}")
    head, *rows = (re.split(" {2,}", line.strip()) for line in out.splitlines()[1:])
    assert head[1:] == [
        *("state", "cell", "images", "loss", "learning rate", "gradient norm", "spikes", "images/s", "of peak", "MiB"),
        *("left", "where", "since"),
    ]
    row = next(row for row in rows if row[1] == "running")
    assert row[3:-1] == [
        *("32 of 64", "0.2500", "0.001", "12.5", "3", "8", "42.5%", "2,048", "1 h 07 min", f"{shown['host']} job 17")
    ]
    assert "1 h 07 min left" in out.splitlines()[0]
    claim.lease.release()
    _, out, _ = lina(capsys, "status", f"study={study}")
    assert f"{claim.cell.config_hash}  stale" in out


def test_a_store_of_before_without_images_and_definition_is_shown(
    failing: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    import sqlite3

    with sqlite3.connect(failing.runs / "optuna.db") as database:
        database.execute("DELETE FROM trial_user_attributes WHERE key LIKE 'lina.%'")
        database.execute("DELETE FROM study_user_attributes WHERE key LIKE 'lina.%'")
    database.close()
    found = state(capsys, f"study={failing.plan.study.name}")
    assert found["counts"] == {"done": 3, "failed": 1}
    assert found["cells"][0]["total_images"] is None
    assert lina(capsys, "status", f"study={failing.plan.study.name}")[0] == 0


def test_a_status_imports_neither_torch_nor_pandas_nor_mlflow(failing: Lab) -> None:
    """Looking on costs a training that runs beside it neither processors nor a GiB of memory."""
    code = (
        "import sys; from lina_lab import cli\n"
        f"code = cli.main(['status', 'study={failing.plan.study.name}'])\n"
        "print(code, sorted({'torch', 'lightning', 'pandas', 'mlflow', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_queueing_imports_no_torch_and_is_one_transaction(lab: Lab) -> None:
    """A command that dies meanwhile leaves all of a study's cells or none."""
    from sqlalchemy import event

    from lina_lab.util.compat.optuna import database_of

    store = store_at(lab.runs, lab.plan)
    database = database_of(store.study)
    assert database is not None
    inserts: list[str] = []

    def seen(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO trial"):
            inserts.append(statement)

    event.listen(database.engine, "before_cursor_execute", seen)
    store.enqueue()
    assert len(inserts) == 3
    assert [cell.state.config_hash for cell in StoredStudy(lab.plan.study.name, lab.runs, None).cells()] == [
        cell.config_hash for cell in lab.plan.cells
    ]


def test_a_table_reads_the_folders_of_the_cells_that_it_shows(failing: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lina_lab.study.status.SHOWN", 2)
    study, read = StoredStudy(failing.plan.study.name, failing.runs, None), list[str]()
    view = look(study, list)
    record = study.record
    monkeypatch.setattr(study, "record", lambda cell: read.append(cell.state.config_hash) or record(cell))
    assert "and 2 more" in str(view)
    assert len(read) == 2
    assert len(view.to_dict()["cells"]) == 4
    assert len(read) == 4
