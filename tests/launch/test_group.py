"""The root cause of a group that fails, and when a group is restarted."""

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.launch.contract import (
    EngineName,
    GroupExit,
    LaunchSpec,
    ProcessExit,
    RankError,
    RankStatus,
    Running,
    read_outcome,
    read_progress,
    write_outcome,
    write_progress,
)
from lina_lab.launch.group import GroupError, GroupLaunch, root_cause
from lina_lab.records.result import Progress, TrialResult
from lina_lab.records.runstore import TrackingRun
from lina_lab.records.status import TrialStatus
from lina_lab.util.errors import Fault, explanation, fault_of
from tests.study.conftest import RESULT

Tiny = Callable[..., TrialConfig]
TRACKING = TrackingRun(uri="uri", run_id="run")
SPEC = LaunchSpec(attempt="a", engine=EngineName.TORCHRUN, tracking=TRACKING, resources=ResourcesConfig(devices=2))
LOST = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:60093: Connection reset by peer")


def note(folder: Path, rank: int, error: BaseException | None = None, *, at: float = 0.0, **changes: Any) -> None:
    made = replace(RankStatus.make(SPEC, rank, error), time=at, host=f"host{rank}", **changes)
    made.write(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    SPEC.write(tmp_path)
    return tmp_path


def test_a_spec_comes_back_and_clears_what_an_earlier_attempt_left(folder: Path) -> None:
    assert LaunchSpec.read(folder) == SPEC
    note(folder, 0)
    write_progress(folder, Progress(images=3, loss=0.5))
    write_outcome(folder, SPEC, RESULT)
    assert read_outcome(folder, SPEC) == RESULT
    assert read_progress(folder) == Progress(images=3, loss=0.5)
    other = replace(SPEC, attempt="b", tracking=None)
    assert read_outcome(folder, other) is None
    other.write(folder)
    assert LaunchSpec.read(folder) == other
    assert read_outcome(folder, SPEC) is None
    assert read_progress(folder) is None
    assert list((folder / "logs").iterdir()) == []


def test_the_first_error_that_is_a_rank_s_own_is_the_root_cause(folder: Path) -> None:
    """Rank 2 failed first, of losing rank 0; rank 0's own error is the cause, and rank 1's came later."""
    note(folder, 2, LOST, at=1.0)
    note(folder, 0, ValueError("the cause"), at=2.0)
    note(folder, 1, ValueError("another"), at=3.0)
    error = root_cause(folder, SPEC, [ProcessExit(rank=2, code=1, host="host2")], "otherwise")
    assert (str(error), error.again) == ("rank 0 on host0: ValueError: the cause", False)


def test_a_process_that_was_killed_is_named_before_those_that_lost_it(folder: Path) -> None:
    note(folder, 0, LOST, at=1.0)
    note(folder, 1)
    exits = [ProcessExit(rank=0, code=1, host="host0"), ProcessExit(rank=1, code=-9, host="host1")]
    error = root_cause(folder, SPEC, exits, "otherwise")
    assert (str(error), error.again) == ("rank 1 on host1 was killed by SIGKILL", True)


def test_a_rank_that_left_no_further_note_was_lost(folder: Path) -> None:
    note(folder, 0, LOST, at=1.0)
    note(folder, 1)
    error = root_cause(folder, SPEC, [], "host1 is silent")
    assert (str(error), error.again) == ("rank 1 on host1 was lost (host1 is silent)", True)


def test_without_any_note_the_launcher_s_own_view_is_named(folder: Path) -> None:
    error = root_cause(folder, SPEC, [], "the agent ended")
    assert (str(error), error.again) == ("the agent ended", True)
    note(folder, 0, LOST)
    assert str(root_cause(folder, SPEC, [], "x")).startswith("rank 0 on host0: RuntimeError: [gloo/")
    note(folder, 1, ValueError("of another attempt"), attempt="b")
    assert root_cause(folder, SPEC, [], "x").again


def test_a_full_disk_on_a_rank_is_the_environment_s_fault(folder: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", str(folder / "step.part"))
    error = RuntimeError("could not save")
    error.__cause__ = full
    note(folder, 0, error)
    cause = root_cause(folder, SPEC, [], "otherwise")
    assert fault_of(cause, folder) is Fault.NO_SPACE
    sentence = explanation(cause, folder)
    assert sentence is not None
    assert "no space left under" in sentence


@pytest.mark.parametrize(
    ("error", "consequence"),
    [
        (LOST, True),
        (RuntimeError("NCCL error in: ..."), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("Connection"), False),
        (type("DistNetworkError", (RuntimeError,), {})("no route"), True),
    ],
)
def test_losing_another_rank_is_a_consequence(error: Exception, consequence: bool) -> None:
    assert RankError.of(error).consequence is consequence


@dataclass
class FakeEngine:
    """Does one of its acts in each attempt: leaves a result, or ends without one."""

    acts: list[TrialResult | Exception | None]
    name: EngineName = EngineName.TORCHRUN
    attempts: list[str] = field(default_factory=list)
    stopped: int = 0

    def start(self, folder: Path, spec: LaunchSpec) -> Running:
        self.attempts.append(spec.attempt)
        engine, act = self, self.acts.pop(0)

        class Now:
            def look(self) -> GroupExit | None:
                if isinstance(act, Exception):
                    raise act
                if act is not None:
                    write_outcome(folder, spec, act)
                return GroupExit(well=act is not None)

            def stop(self) -> None:
                engine.stopped += 1

        return Now()

    def resume(self, folder: Path) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def launch(engine: FakeEngine, folder: Path, config: TrialConfig, lines: list[str], restarts: int = 2) -> TrialResult:
    made = GroupLaunch(engine, ResourcesConfig(max_restarts=restarts), lines.append)
    return made(config, folder, tracking=TRACKING, report=lambda progress: None)


def test_a_group_that_ends_without_a_result_is_restarted(tiny: Tiny, tmp_path: Path) -> None:
    preempted = replace(RESULT, status=TrialStatus.PREEMPTED, error="asked to make room at step 3")
    engine, lines = FakeEngine([None, preempted, RESULT]), list[str]()
    result = launch(engine, tmp_path, tiny(), lines)
    assert len(set(engine.attempts)) == 3
    assert result == replace(RESULT, problems=tuple(lines))
    assert lines == [
        "the group was restarted: the processes ended without a result",
        "the group was restarted: asked to make room at step 3",
    ]


def test_it_is_given_up_after_so_many_times(tiny: Tiny, tmp_path: Path) -> None:
    engine = FakeEngine([None] * 5)
    with pytest.raises(GroupError, match="the processes ended without a result"):
        launch(engine, tmp_path, tiny(), [])
    assert len(engine.attempts) == 3


def test_whoever_is_interrupted_stops_the_group(tiny: Tiny, tmp_path: Path) -> None:
    engine = FakeEngine([KeyboardInterrupt()])  # type: ignore[list-item]
    engine.acts = [RuntimeError("planted")]
    with pytest.raises(RuntimeError, match="planted"):
        launch(engine, tmp_path, tiny(), [])
    assert engine.stopped == 1


def test_a_batch_that_cannot_be_shared_out_starts_nothing(tiny: Tiny, tmp_path: Path) -> None:
    engine = FakeEngine([])
    made = GroupLaunch(engine, ResourcesConfig(devices=3), [].append)
    with pytest.raises(ValueError, match="cannot be divided evenly"):
        made(tiny(), tmp_path, tracking=None, report=lambda progress: None)
    assert engine.attempts == []
    assert not (tmp_path / "group.json").exists()
    assert json.dumps(engine.acts) == "[]"


def test_a_spec_of_version_0_1_is_read(tmp_path: Path) -> None:
    """A job that it describes may still be running when the next version follows it."""
    resources = {"nodes": 1, "devices": 2, "accelerator": "cpu", "strategy": "ddp", "accumulate": 4}
    data = {"attempt": "a", "engine": "slurm", "tracking": ["sqlite:///x", "r"], "resources": resources}
    (tmp_path / "group.json").write_text(json.dumps(data))
    assert LaunchSpec.read(tmp_path) == LaunchSpec(
        attempt="a",
        engine=EngineName.SLURM,
        tracking=TrackingRun(uri="sqlite:///x", run_id="r"),
        resources=ResourcesConfig(devices=2, accelerator="cpu", accumulate_grad_batches=4),
    )
