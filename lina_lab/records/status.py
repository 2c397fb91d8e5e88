"""Every status that a program decides by, one enumeration each.

The values are what stores and files hold since version 0.1. A sentence beside a status is for people only.
"""

from enum import StrEnum


class TrialStatus(StrEnum):
    """How training ended."""

    DONE = "done"
    DIVERGED = "diverged"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    """Its state is saved; another attempt resumes it."""
    PRUNED = "pruned"


class CellStatus(StrEnum):
    """The state of a cell in the queue, in its record and in MLflow's tag."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    DIVERGED = "diverged"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """Its attempt was stopped; the next worker resumes it."""
    CANCELLED = "cancelled"
    PRUNED = "pruned"
    """It was given up by `study.pruning`, while it trained or before. It has no value of an objective."""

    @property
    def open(self) -> bool:
        """Whether a worker may still change it."""
        return self in (CellStatus.WAITING, CellStatus.RUNNING, CellStatus.INTERRUPTED)

    @property
    def final(self) -> bool:
        """Whether the cell has ended for good. Nothing trains it again."""
        return self in (CellStatus.DONE, CellStatus.DIVERGED, CellStatus.PRUNED)


class Phase(StrEnum):
    """What a cell is trained for."""

    COMPARISON = "comparison"
    """To compare the variants; each cell of a study that tunes nothing."""
    TUNING = "tuning"
    """To choose the value of the tuned field for its variant and size. It enters no comparison."""
    ROUNDING = "rounding"
    """To measure what another order of sums changes in a cell of the comparison. It enters no comparison."""
    SOURCE = "source"
    """For the cells that start from its weights. It enters no comparison."""


class RunStatus(StrEnum):
    """MLflow's status of a run (`mlflow.entities.RunStatus`, which is not imported for its names)."""

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


class RankState(StrEnum):
    """How a rank of a group is, by its own note."""

    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"


class NodeAction(StrEnum):
    """What the leading machine has another one do."""

    WAIT = "wait"
    RUN = "run"
    """Start its part of a group."""
    END = "end"
    """The study has ended."""
    LEAVE = "leave"
    """The machine is refused."""


CELL_STATUS = {
    TrialStatus.DONE: CellStatus.DONE,
    TrialStatus.DIVERGED: CellStatus.DIVERGED,
    TrialStatus.CANCELLED: CellStatus.CANCELLED,
    TrialStatus.PREEMPTED: CellStatus.INTERRUPTED,
    TrialStatus.PRUNED: CellStatus.PRUNED,
}
"""Status of a trial's result -> that of its cell."""
RUN_STATUS = {
    CellStatus.WAITING: RunStatus.RUNNING,
    CellStatus.RUNNING: RunStatus.RUNNING,
    CellStatus.DONE: RunStatus.FINISHED,
    CellStatus.DIVERGED: RunStatus.FINISHED,
    CellStatus.FAILED: RunStatus.FAILED,
    CellStatus.INTERRUPTED: RunStatus.KILLED,
    CellStatus.CANCELLED: RunStatus.KILLED,
    CellStatus.PRUNED: RunStatus.KILLED,
}
"""Status of a cell -> that of its run in MLflow. A pruned run is KILLED: it has not come to its end, and did not
fail."""
