"""The plan of a study as the cells' states let it grow, and the order in which its cells are claimed."""

from collections.abc import Mapping
from pathlib import Path

from lina_lab.records.status import CellStatus
from lina_lab.study.cells import CellState
from lina_lab.study.compared import with_compared
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.lineage import critical_flops
from lina_lab.study.rounds import grown, grows


class GrowingPlan:
    """The plan with every cell that follows from results.

    Args:
        plan: the plan as the stores know its cells.
        folder: the study's folder, which says at which tuned values it has compared.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._folder = folder
        self.plan = grown(with_compared(plan, folder), {})
        self.cells: dict[str, Cell] = {}
        """By config hash."""
        self.order: list[str] = []
        """Config hashes in the order in which the cells are claimed."""
        self._first = {cell.config_hash for cell in self.plan.cells}
        self._ended: dict[str, CellStatus] | None = None
        self._longest_first = False

    @property
    def grows(self) -> bool:
        """Whether results can add cells."""
        return grows(self.plan)

    def adopt(self, states: Mapping[str, CellState]) -> bool:
        """Grow by what follows from the cells' states; returns whether there are new cells."""
        ended = {config_hash: state.status for config_hash, state in states.items() if not state.status.open}
        plan = with_compared(self.plan, self._folder)
        if ended == self._ended and plan.compared == self.plan.compared:
            return False
        self._ended, self.plan = ended, grown(plan, states)
        cells = {cell.config_hash: cell for cell in self.plan.cells}
        fresh = [config_hash for config_hash in cells if config_hash not in self.cells]
        self.order = [*(config_hash for config_hash in self.order if config_hash in cells), *fresh]
        self.cells = cells
        if self._longest_first and fresh:
            self.longest_first()
        return bool(fresh)

    def missing(self, known: Mapping[str, CellState]) -> list[Cell]:
        """Cells that follow from results and that the store does not know.

        Those that need no result are left out: a command that joins a study queues none of its own.
        """
        return [c for h, c in self.cells.items() if h not in known and h not in self._first]

    def longest_first(self) -> None:
        """Claim the costliest chains of cells first from now on: several workers are then done sooner."""
        self._longest_first = True
        flops = critical_flops(self.cells.values())
        self.order.sort(key=lambda config_hash: -flops[config_hash])
