"""A study in memory whose cells end one after another, with losses that a test plants."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

from lina_lab.config import StudyConfig
from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.rounds import grown

RATES = [0.001, 0.002, 0.004, 0.008, 0.016]
NORMALIZATION, DIM, LR = "model.attention.normalization", "model.dim", "optimizer.lr"
PRIMARY = {"axis": "normalization", "treatment": "subtraction", "baseline": "division"}
AXES = {"normalization": {NORMALIZATION: ["division", "subtraction"]}, "size": {DIM: [8, 16]}}
BEST = {("division", 8): 0.003, ("division", 16): 0.004, ("subtraction", 8): 0.006, ("subtraction", 16): 0.002}

Loss = Callable[[Cell], float]
Study = Callable[..., tuple[StudyConfig, dict[str, Any]]]


@dataclass(frozen=True)
class State:
    status: CellStatus
    values: list[float] | None = None


def planted(cell: Cell) -> float:
    """A parabola in the logarithm of the rate, with the noise of the cell's seed, and some of its own."""
    best = BEST[cell.axes[NORMALIZATION], cell.axes[DIM]]
    own = random.Random(cell.config_hash).gauss(0, 0.002)
    common = random.Random(cell.config.seed).gauss(0, 0.05)
    return 0.5 + 0.1 * log(cell.tuned[LR] / best) ** 2 + common + own


def state_of(loss: float) -> State:
    return State(CellStatus.DONE, [loss]) if loss < float("inf") else State(CellStatus.DIVERGED)


def run(plan: Plan, loss: Loss = planted, order: int = 0, at_once: int = 1) -> tuple[Plan, dict[str, State]]:
    """End the open cells in a random order, some at a time, until no more follow."""
    states: dict[str, State] = {}
    choose = random.Random(order)
    plan = grown(plan, states)
    while open_cells := [cell for cell in plan.cells if cell.config_hash not in states]:
        for cell in choose.sample(open_cells, min(at_once, len(open_cells))):
            states[cell.config_hash] = state_of(loss(cell))
        before, plan = plan, grown(plan, states)
        assert set(hashes(before)) < set(hashes(plan)) or hashes(before) == hashes(plan)
    return plan, states


def hashes(plan: Plan, which: Phase | None = None) -> list[str]:
    return sorted(cell.config_hash for cell in plan.cells if which in (None, cell.phase))


def seeds(plan: Plan, **axes: Any) -> list[int]:
    """Seeds of the comparison's cells at a point."""
    wanted = {NORMALIZATION: axes["normalization"], DIM: axes["dim"]}
    return [cell.config.seed for cell in plan.cells if cell.phase is Phase.COMPARISON and cell.axes == wanted]


def rates(plan: Plan) -> dict[tuple[str, int], set[float]]:
    """Rates of the comparison's cells."""
    found: dict[tuple[str, int], set[float]] = {}
    for cell in plan.cells:
        if cell.phase is Phase.COMPARISON:
            found.setdefault((cell.axes[NORMALIZATION], cell.axes[DIM]), set()).add(cell.config.optimizer.lr)
    return found


def within_the_grid(cell: Cell) -> float:
    """The best rate lies in the middle of the grid."""
    return log(cell.tuned[LR] / 0.004) ** 2
