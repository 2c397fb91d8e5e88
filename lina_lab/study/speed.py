"""How long cells take: as measured on the study's finished ones, or at a rate that the study assumes."""

import statistics
from dataclasses import dataclass

import numpy as np

from lina_lab.config import ResourcesConfig
from lina_lab.records.record import read_record
from lina_lab.records.status import CellStatus
from lina_lab.study.cost import other_flops, training_flops
from lina_lab.study.grid import Cell
from lina_lab.study.lineage import own_flops
from lina_lab.study.workspace import Workspace

ENOUGH = 100
"""Cells whose speed is read at most."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds of a cell's parts, with all devices at work."""

    training: float
    """Seconds a FLOP of training."""
    other: float
    """Seconds a FLOP of validation and of generated images."""
    start: float = 0.0
    """Seconds of a cell whatever its size: reading data, starting, checkpoints."""
    cells: int = 0
    """Finished cells that it is measured on; 0: the rate is assumed."""

    def seconds(self, cell: Cell, resources: ResourcesConfig) -> float:
        """Seconds that a cell takes, without what it starts from."""
        return self.start + self.training * own_flops(cell) + self.other * other_flops(cell.config, resources)


def speed_of(workspace: Workspace) -> Speed | None:
    """The speed of the study's cells; None: no cell is done, and no rate is assumed."""
    plan, resources = workspace.plan, workspace.plan.study.resources
    training, others = list[float](), list[tuple[float, float]]()
    for cell in plan.cells:
        if len(training) == ENOUGH:
            break
        record = read_record(workspace.cell_folder(cell), cell.config_hash)
        if record is None or record.status is not CellStatus.DONE or record.result is None:
            continue
        seconds = cell.config.images_seen / record.result.images_per_second
        training.append(seconds / training_flops(cell.config))
        # Of a cell that was resumed only the last attempt's time is known.
        if record.result.resumed_at is None:
            others.append((other_flops(cell.config, resources), max(0.0, record.result.fit_seconds - seconds)))
    if training:
        start, other = _line(others)
        return Speed(training=float(statistics.median(training)), other=other, start=start, cells=len(training))
    if resources.flops_per_second is None:
        return None
    rate = 1 / (resources.flops_per_second * resources.world_size)
    return Speed(training=rate, other=rate)


def _line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope, neither below 0, of the line nearest to the points; zeros without points."""
    if not points:
        return 0.0, 0.0
    from scipy.optimize import nnls  # takes half a second

    flops, seconds = np.array(points).T
    scale = max(float(flops.max()), 1.0)
    (start, slope), _ = nnls(np.stack([np.ones_like(flops), flops / scale], axis=1), seconds)
    return float(start), float(slope) / scale
