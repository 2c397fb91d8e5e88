"""Exit codes of `lina run`, and what is recorded of a command that was stopped."""

import os
import time
from dataclasses import replace

import pytest

from lina_lab.commands import study_actions
from lina_lab.config import CommandConfig, PathsConfig, TrialConfig
from lina_lab.records.result import TrialResult
from lina_lab.records.status import TrialStatus
from lina_lab.study.pool import worker_command
from lina_lab.util.signals import DEADLINE, TimeLimit, stop_reason
from tests.study.conftest import RESULT, Lab, raising, second_only, workspace_at


def run(lab: Lab, monkeypatch: pytest.MonkeyPatch, command: CommandConfig | None = None) -> int:
    monkeypatch.setattr(study_actions, "launcher_for", lambda *_: lab.launcher)
    paths = PathsConfig(runs=str(lab.runs))
    return study_actions.run_and_report(workspace_at(lab.runs, lab.plan), paths, command or CommandConfig(), [])


def test_a_cell_that_is_stopped_at_its_time_limit_makes_the_exit_code_1(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    late = replace(RESULT, status=TrialStatus.CANCELLED, error="over its limit of training time at step 2")
    lab.behaviour = second_only(lab.plan, lambda: late)
    assert run(lab, monkeypatch) == 1
    assert "1 cells were cancelled and have no result" in capsys.readouterr().err
    lab.behaviour = lambda config: RESULT
    assert run(lab, monkeypatch) == 0


def test_sigterm_is_not_told_as_stopped_by_hand(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.behaviour = second_only(lab.plan, raising(SystemExit(143)))
    assert run(lab, monkeypatch) == 143
    assert lab.record(1)["error"] == "terminated (SIGTERM)"
    lab.behaviour = second_only(lab.plan, raising(KeyboardInterrupt()))
    assert run(lab, monkeypatch) == 130
    assert lab.record(1)["error"] == "stopped by hand"


def test_a_command_stops_at_its_limit_and_the_same_one_goes_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits: list[TimeLimit] = []

    class Limit(TimeLimit):
        """Its time begins with the second cell, however slow the machine was until then."""

        def __enter__(self) -> TimeLimit:
            limits.append(self)
            return self

    def late(config: TrialConfig) -> TrialResult:
        if config == lab.plan.cells[1].config:
            TimeLimit.__enter__(limits[0])
            time.sleep(60)
        return RESULT

    lab.behaviour = late
    with monkeypatch.context() as patch:
        patch.setattr("lina_lab.commands.study_actions.TimeLimit", Limit)
        assert run(lab, monkeypatch, CommandConfig(max_minutes=1 / 60)) == 1
    assert "stopped at max_minutes=0.0166667; the same command resumes" in capsys.readouterr().err
    assert lab.states() == ["done", "interrupted", "waiting", "waiting"]
    assert lab.record(1)["error"] == "the time of the command was over (max_minutes)"
    lab.behaviour = lambda config: RESULT
    assert run(lab, monkeypatch, CommandConfig(max_minutes=5)) == 0


def test_a_worker_that_is_stopped_says_whether_the_time_of_its_command_was_over(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.behaviour = second_only(lab.plan, raising(SystemExit(143)))
    for seconds, sentence in ((60, "terminated (SIGTERM)"), (0, "the time of the command was over (max_minutes)")):
        monkeypatch.setenv(DEADLINE, str(time.monotonic() + seconds))
        assert run(lab, monkeypatch, CommandConfig(action="work" if seconds == 0 else "run")) == 143
        assert lab.record(1)["error"] == sentence


def test_a_time_limit_that_was_not_reached_leaves_nothing() -> None:
    with TimeLimit(5):
        assert stop_reason(SystemExit(143)) == "terminated (SIGTERM)"
        assert float(os.environ[DEADLINE]) - time.monotonic() == pytest.approx(300, abs=5)
    assert DEADLINE not in os.environ


def test_a_pool_s_workers_do_not_count_the_time_again() -> None:
    assert "max_minutes=5" not in worker_command(["study=tiny", "workers=2", "max_minutes=5"])
