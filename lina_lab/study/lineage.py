"""Cells that start from other cells of the study: which ones, and what they have taken to train."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lina_lab.config import LinaConfig, StudyConfig, TrialConfig, to_dict
from lina_lab.config.start import StartConfig
from lina_lab.config.teacher import teacher_misfit
from lina_lab.records.status import CellStatus, Phase
from lina_lab.records.weights import locate
from lina_lab.study.cost import flops_per_image

if TYPE_CHECKING:
    from lina_lab.study.cells import CellState
    from lina_lab.study.grid import Cell

UNKNOWN = "0" * 12
"""Stands for the hash of a cell that depends on the seed, while a point is checked for all seeds."""
ENDS = {
    CellStatus.FAILED: "failed",
    CellStatus.DIVERGED: "diverged",
    CellStatus.CANCELLED: "was cancelled",
    CellStatus.PRUNED: "was pruned",
}
"""How a cell ended from whose weights nothing can start."""


def stage_of(study: StudyConfig, values: Mapping[str, Any]) -> str | None:
    """The label of a point on the axis of the stages; None: the study has no stages."""
    return None if study.stages is None else study.point_name(study.stages.axis, values)


def named_point(study: StudyConfig, values: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The point with the same values of all other axes, at a stage."""
    assert study.stages is not None
    named = study.named(study.stages.axis, stage)
    assert named is not None  # `StudyConfig` has checked the names
    return {**values, **named}


def source_point(study: StudyConfig, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The point whose cells a point's cells start from; None: these start from drawn weights, or from start.source."""
    if study.stages is None:
        return None
    source = study.stages.starts.get(study.point_name(study.stages.axis, values))
    return None if source is None else named_point(study, values, source)


def budget_point(study: StudyConfig, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The point whose training FLOPs, with those of all that it started from, are the budget of a point's cells."""
    if study.stages is None:
        return None
    other = study.stages.same_flops.get(study.point_name(study.stages.axis, values))
    return None if other is None else named_point(study, values, other)


def phase_of(study: StudyConfig, values: Mapping[str, Any]) -> Phase:
    """What the cells of a point are trained for, in a study whose axes are trained as they are."""
    stages = study.stages
    alone = stages is not None and study.point_name(stages.axis, values) in stages.not_compared
    return Phase.SOURCE if alone else Phase.COMPARISON


def start_fields(base: Mapping[str, Any], *, starts: bool) -> dict[str, Any]:
    """A trial's fields of `start`: those of a point that starts from another one, or the defaults."""
    return {**base["start"], "source": None, "sha256": None, "cell": UNKNOWN} if starts else to_dict(StartConfig())


def teacher_of(config: TrialConfig, source: "Cell") -> LinaConfig:
    """The model that a cell is distilled from.

    Raises:
        ValueError: the cell cannot learn from its source.
    """
    if (problem := teacher_misfit(config.start, config.model, source.config.model)) is not None:
        raise ValueError(f"a cell that starts from {source.label}: {problem}")
    return source.config.model


def with_hash_of_source(base: Mapping[str, Any], runs: Path) -> Mapping[str, Any]:
    """A trial's nested data with the hash of the weights that `start.source` names, unless it is there.

    Raises:
        ValueError: there are no weights.
    """
    # A stored study of an earlier version has no such section.
    start = base.get("start", {})
    if start.get("source") is None or start.get("sha256") is not None:
        return base
    return {**base, "start": {**start, "sha256": locate(start["source"], runs).sha256}}


def with_hash(config: TrialConfig, runs: Path) -> TrialConfig:
    """As `with_hash_of_source`, of a trial whose source an axis varies."""
    start = config.start
    if start.source is None or start.sha256 is not None:
        return config
    return replace(config, start=replace(start, sha256=locate(start.source, runs).sha256))


def own_flops(cell: "Cell") -> float:
    """Training FLOPs of a cell alone, without what it starts from."""
    flops = float(flops_per_image(cell.config.model, cell.teacher))
    return flops * (cell.config.images_seen - cell.images_before)


def total_flops(cell: "Cell") -> float:
    """Training FLOPs of a cell and of all cells that it starts from."""
    return own_flops(cell) + cell.flops_before


def started_from(config: TrialConfig, source: "Cell", seed: int) -> TrialConfig:
    """The trial of a cell with another one as its source."""
    return replace(config, start=replace(config.start, cell=source.config_hash), seed=seed)


def with_flops_of(config: TrialConfig, other: "Cell") -> TrialConfig:
    """The trial with the budget of another cell and of all that it started from, to the nearest image."""
    images = max(1, round(total_flops(other) / flops_per_image(config.model)))
    return replace(config, trainer=replace(config.trainer, max_images=images))


def with_sources(cells: Iterable["Cell"], source_of: Callable[["Cell"], "Cell | None"]) -> tuple["Cell", ...]:
    """The cells and all that they start from, a source before what starts from it."""
    found: dict[str, Cell] = {}

    def add(cell: "Cell") -> None:
        if cell.config_hash not in found:
            if (source := source_of(cell)) is not None:
                add(source)
            found[cell.config_hash] = cell

    for cell in cells:
        add(cell)
    return tuple(found.values())


def critical_flops(cells: Iterable["Cell"]) -> dict[str, float]:
    """Training FLOPs of each cell with the costliest chain of cells that start from it, by config hash."""
    every = {cell.config_hash: cell for cell in cells}
    found = {config_hash: own_flops(cell) for config_hash, cell in every.items()}
    # The deepest first: a chain's cost reaches its source when all that starts from it is known.
    for cell in sorted(every.values(), key=lambda cell: -_depth(cell, every)):
        source = cell.config.start.cell
        if source in every:
            found[source] = max(found[source], own_flops(every[source]) + found[cell.config_hash])
    return found


def _depth(cell: "Cell", every: Mapping[str, "Cell"]) -> int:
    source = every.get(cell.config.start.cell or "")
    return 0 if source is None else 1 + _depth(source, every)


def unusable(cells: Iterable["Cell"], states: Mapping[str, "CellState"]) -> dict[str, str]:
    """Waiting cells whose source has ended without weights to start from, with the reason as a sentence.

    Args:
        cells: the study's cells.
        states: their states, by config hash.
    """
    every = {cell.config_hash: cell for cell in cells}
    found = {}
    for config_hash, cell in every.items():
        source = cell.config.start.cell
        if source is None or source not in states or states[source].status not in ENDS:
            continue
        if config_hash in states and states[config_hash].status is CellStatus.WAITING:
            label = every[source].label if source in every else source
            found[config_hash] = f"it starts from {label}, which {ENDS[states[source].status]}"
    return found


def ready(cell: "Cell", states: Mapping[str, "CellState"]) -> bool:
    """Whether a cell's source is done, or it has none."""
    source = cell.config.start.cell
    return source is None or (source in states and states[source].status is CellStatus.DONE)
