"""A command of the user's is run once for each event that it is for, and changes nothing."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from lina_lab.commands import study_actions
from lina_lab.config import AlertsConfig, CommandConfig, PathsConfig, from_dict
from lina_lab.records.status import CellStatus, TrialStatus
from lina_lab.study.alerts import Alerts
from lina_lab.study.grid import make_plan
from tests.study.conftest import RESULT, Lab, raising, second_only, store_at, workspace_at

WRITES = "cat >> events.txt; echo >> events.txt; env | grep ^LINA_ | sort > variables.txt"
ALL = ("done", "diverged", "failed", "interrupted", "cancelled", "pruned", "study")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make(tiny_study: Any, tmp_path: Path) -> Callable[..., tuple[Alerts, list[str]]]:
    """Makes alerts with a list of the lines that they tell."""

    def made(**fields: Any) -> tuple[Alerts, list[str]]:
        lines: list[str] = []
        study, _ = tiny_study()
        return Alerts(AlertsConfig(**{"on": ALL, **fields}), study, tmp_path / "runs/tiny", lines.append), lines

    return made


def events() -> list[tuple[str, str, str]]:
    """Event, cell and status of each run of the command so far."""
    path = Path("events.txt")
    told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(event["event"], event["cell"], event["status"]) for event in told]


def run(lab: Lab, monkeypatch: pytest.MonkeyPatch, **alerts: Any) -> int:
    monkeypatch.setattr(study_actions, "launcher_for", lambda *_: lab.launcher)
    command = CommandConfig(alerts=AlertsConfig(command=WRITES, **alerts))
    return study_actions.run_and_report(workspace_at(lab.runs, lab.plan), PathsConfig(runs=str(lab.runs)), command, [])


def test_the_command_finds_the_event_in_its_environment_and_on_its_input(
    make: Callable[..., tuple[Alerts, list[str]]], tiny_study: Any, tmp_path: Path
) -> None:
    alerts, lines = make(command=WRITES)
    cell = make_plan(*tiny_study()).cells[0]
    alerts.note(cell, CellStatus.FAILED, "$(touch harm); `touch harm`\n\"'; touch harm\0 \udcff and more")
    assert events() == []  # not before the queue is left
    alerts.send()
    alerts.send()
    assert lines == []
    told = json.loads(Path("events.txt").read_text())
    assert told == {
        "event": "cell",
        "study": "tiny",
        "cell": "division 8 seed 0",
        "status": "failed",
        "folder": str(tmp_path / "runs/tiny" / cell.config_hash),
        "message": "$(touch harm); `touch harm` \"'; touch harm ? and more",
    }
    variables = dict(line.split("=", 1) for line in Path("variables.txt").read_text().splitlines())
    assert {f"LINA_{name.upper()}": value for name, value in told.items()}.items() <= variables.items()
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("echo so; echo no mail here >&2; exit 3", "ended with exit code 3: no mail here"),
        ("exit 1", "ended with exit code 1"),
        ("./missing.sh", "ended with exit code 127: "),
    ],
)
def test_a_command_that_fails_is_a_line(
    make: Callable[..., tuple[Alerts, list[str]]], tiny_study: Any, command: str, line: str
) -> None:
    alerts, lines = make(command=command)
    alerts.note(make_plan(*tiny_study()).cells[0], CellStatus.FAILED, "x")
    alerts.study_ended(CellStatus.DONE, "4 done")
    assert len(lines) == 2
    assert lines[0].startswith(f"alerts.command {line}")
    assert lines[0].endswith("(division 8 seed 0 failed)")
    assert lines[1].endswith("(study done)")


def test_a_command_that_hangs_is_ended_with_all_that_it_started(make: Callable[..., tuple[Alerts, list[str]]]) -> None:
    alerts, lines = make(command="sleep 1000 & echo $! > child; sleep 1000", timeout_seconds=1.0)
    begun = time.monotonic()
    alerts.study_ended(CellStatus.DONE, "")
    assert time.monotonic() - begun < 10
    assert lines == ["alerts.command took more than 1 s and was ended (study done)"]
    with suppress(psutil.NoSuchProcess):
        child = psutil.Process(int(Path("child").read_text()))
        while child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() - begun < 30
            time.sleep(0.05)


def test_what_the_command_leaves_in_the_background_is_not_waited_for(
    make: Callable[..., tuple[Alerts, list[str]]],
) -> None:
    alerts, lines = make(command="sleep 5 & true")
    begun = time.monotonic()
    alerts.study_ended(CellStatus.DONE, "")
    assert (time.monotonic() - begun < 4, lines) == (True, [])


def test_failures_divergence_and_the_end_are_told_unless_other_events_are_named(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverged = replace(RESULT, status=TrialStatus.DIVERGED, error="the training loss is nan at step 3")
    first, second, *_ = (cell.config for cell in lab.plan.cells)
    lab.behaviour = lambda config: (
        raising(RuntimeError("boom"))() if config == first else diverged if config == second else RESULT
    )
    assert run(lab, monkeypatch) == 1
    assert events() == [
        ("cell", "division 8 seed 0", "failed"),
        ("cell", "division 16 seed 0", "diverged"),
        ("study", "", "failed"),
    ]
    messages = [json.loads(line)["message"] for line in Path("events.txt").read_text().splitlines()]
    assert messages[:2] == ["RuntimeError: boom", "the training loss is nan at step 3"]
    assert "1 failed" in messages[2]
    lab.behaviour = lambda config: RESULT
    assert run(lab, monkeypatch, on=("done",)) == 0
    assert events()[3:] == [("cell", "division 8 seed 0", "done")]
    assert "val/loss_ema 0.5000" in Path("events.txt").read_text()


@pytest.mark.parametrize(
    ("stop", "code", "reason"), [(KeyboardInterrupt(), 130, "by hand"), (SystemExit(143), 143, "SIGTERM")]
)
def test_a_study_that_is_stopped_is_told(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, stop: BaseException, code: int, reason: str
) -> None:
    lab.behaviour = second_only(lab.plan, raising(stop))
    assert run(lab, monkeypatch, on=("interrupted", "study")) == code
    assert events() == [("cell", "division 16 seed 0", "interrupted"), ("study", "", "interrupted")]
    assert Path("events.txt").read_text().count(reason) == 2


def test_the_cell_of_a_lost_process_is_told_as_interrupted_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_at(lab.runs, lab.plan)
    store.enqueue()
    claim = store.claim()
    assert claim is not None
    claim.lease.release()  # as the operating system does with the process
    assert run(lab, monkeypatch, on=("interrupted", "done")) == 0
    lost, *done = events()
    assert lost == ("cell", claim.cell.label, "interrupted")
    assert sorted(done) == sorted(("cell", cell.label, "done") for cell in lab.plan.cells)
    paused = store_at(lab.runs, lab.plan)
    told: list[str] = []
    paused.ended = lambda *_: told.append("told")
    paused.end(claim, CellStatus.DONE, values=[0.1])
    assert told == []  # the first process comes back: the queue has another end of its attempt


def test_a_process_that_is_killed_between_record_and_command_leaves_the_command_out(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    with monkeypatch.context() as patch:
        patch.setattr(Alerts, "send", lambda self: raising(KilledError())())
        with pytest.raises(KilledError):
            run(lab, monkeypatch, on=ALL)
    assert lab.states()[0] == "done"
    assert events() == []
    assert run(lab, monkeypatch, on=ALL) == 0
    assert events() == [*(("cell", cell.label, "done") for cell in lab.plan.cells[1:]), ("study", "", "done")]


def test_alerts_are_no_part_of_a_study(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(lab, monkeypatch, on=("done",)) == 0
    assert run(lab, monkeypatch, on=("study",)) == 0
    assert len(lab.trained) == 4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"on": ["lost"]}, "alerts.on.0='lost': input should be 'done', 'diverged', 'failed', 'interrupted'"),
        ({"command": ""}, "alerts.command='': string should have at least 1 character"),
        ({"timeout_seconds": 0}, "alerts.timeout_seconds=0: input should be greater than 0"),
    ],
)
def test_bad_alerts_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="alerts") as caught:
        from_dict(AlertsConfig, fields, within="alerts")
    assert sentence in str(caught.value)
