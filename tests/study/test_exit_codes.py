"""Exit codes of `lina run`, and what is recorded of a command that was stopped."""

from dataclasses import replace

import pytest

from lina_lab.commands import study_actions
from lina_lab.config import CommandConfig, PathsConfig
from lina_lab.records.status import TrialStatus
from tests.study.conftest import RESULT, Lab, raising, second_only, workspace_at


def run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(study_actions, "launcher_for", lambda *_: lab.launcher)
    paths = PathsConfig(runs=str(lab.runs))
    return study_actions.run_and_report(workspace_at(lab.runs, lab.plan), paths, CommandConfig(), [])


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
