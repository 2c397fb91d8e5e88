"""What a study will still take, and what it can resolve, from the results in its cells' folders."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import floor, log10, nan

import numpy as np

from lina_lab.config import StudyConfig
from lina_lab.config.primary import primary_text
from lina_lab.decisions.contrast import contrast
from lina_lab.decisions.power import resolvable, seeds_needed
from lina_lab.records.record import read_record
from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.compared import with_compared
from lina_lab.study.grid import Cell, Plan, grid_cells
from lina_lab.study.lineage import own_flops
from lina_lab.study.rounds import grown, grows
from lina_lab.study.speed import Speed
from lina_lab.study.tuning import States
from lina_lab.study.workspace import Workspace

POWER = 0.8
"""Probability with which a difference is to be resolved."""
SHARES = (0.5, 1.0, 2.0)
"""Differences that are shown, in deviations of the paired differences, before they are rounded."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The state of a cell as the record in its folder has it."""

    status: CellStatus
    values: list[float] | None


def known_so_far(workspace: Workspace) -> tuple[Workspace, States]:
    """The workspace with all cells that follow from the records in its folders, and these cells' states."""
    states: dict[str, Recorded] = {}
    plan = with_compared(workspace.plan, workspace.folder)
    if not grows(plan) and plan.study.primary is None:
        return workspace, states
    read: set[str] = set()
    while fresh := [cell for cell in plan.cells if cell.config_hash not in read]:
        for cell in fresh:
            read.add(cell.config_hash)
            if (state := _recorded(workspace, cell)) is not None:
                states[cell.config_hash] = state
        plan = grown(plan, states)
    return replace(workspace, plan=plan), states


def _recorded(workspace: Workspace, cell: Cell) -> Recorded | None:
    record = read_record(workspace.cell_folder(cell), cell.config_hash)
    if record is None:
        return None
    metrics = record.result.metrics if record.status is CellStatus.DONE and record.result is not None else {}
    values = [metrics.get(objective.metric, nan) for objective in workspace.plan.study.objectives]
    return Recorded(status=record.status, values=values if metrics else None)


def to_follow(plan: Plan, speed: Speed | None) -> str:
    """What may follow after the cells of a plan that grows, as an upper bound; empty where nothing can follow."""
    study, lines = plan.study, list[str]()
    if not grows(plan):
        return ""
    trials = _most_trials(plan)
    # What a cell takes does not depend on the tuned value.
    grid = grid_cells(plan, lambda point: {name: values[0] for name, values in study.tune.items()})
    compared = replace(plan, cells=grid).with_rounding().cells
    # Seeds that are added are trained again too, unless the study names those that are.
    twice = study.rounding is not None and not study.rounding.seeds
    added = [(cell, times * (2 if twice else 1)) for cell, times in _most_added(plan)]
    if study.tune:
        tuned = {str(cell.axes) for cell, _ in trials}
        count = sum(times for _, times in trials)
        lines.append(
            f"Tuning of {', '.join(study.tune)}: at most {count} cells, for {len(tuned)} variants and sizes; "
            f"then {len(compared)} cells of the comparison at the chosen values."
        )
    if plan.raced is not None:
        races = [cell for cell in compared if cell.phase is Phase.COMPARISON]
        waiting = len(races) - len(plan.raced.due) - len(plan.raced.given_up)
        lines.append(f"Racing: {waiting} cells wait for the looks at those before them, and may be given up.")
    if added:
        count = sum(times for _, times in added)
        lines.append(f"Until the primary comparison is answered, at most {count} cells more: seeds of its cells.")
    everything = [*trials, *((cell, 1) for cell in compared), *added]
    flops = sum(times * own_flops(cell) for cell, times in everything)
    time = ""
    if speed is not None:
        seconds = sum(times * speed.seconds(cell, study.resources) for cell, times in everything)
        assumed = "" if speed.cells else " at the assumed rate"
        time = f", {seconds * study.resources.world_size / 3600:,.3g} device-hours{assumed}"
    lines.append(f"In all at most {sum(times for _, times in everything)} cells, {flops:.3g} FLOPs{time}.")
    return "\n".join(lines) + "\n"


def _most_trials(plan: Plan) -> list[tuple[Cell, int]]:
    """A cell of tuning for each variant and size that is tuned, and how many like it there may be."""
    study = plan.study
    if not study.tune:
        return []
    tuning, values = study.tuning, next(iter(study.tune.values()))
    tried = (tuning.trials if tuning.sampler == "tpe" else len(set(values))) + tuning.extend
    return [(one.cells[0], tried * len(tuning.seeds)) for one in plan.tuned]


def _most_added(plan: Plan) -> list[tuple[Cell, int]]:
    """A cell for each point of the primary comparison and of what it starts from, and how many seeds may be added."""
    study = plan.study
    if study.until is None or plan.seed is not None:
        return []
    terms = [dict(term.values) for term in study.primary_terms()]
    points = [point for point in plan.points if point in terms]
    if len(points) < len(terms):
        return []
    common = set.intersection(*(set(plan.seeds_at(point)) for point in points))
    tuned = {name: values[0] for name, values in study.tune.items()}
    more = max(0, study.until.max_seeds - len(common))
    cells = replace(plan, cells=tuple(plan.cell(point, min(common), tuned) for point in points)).with_sources().cells
    return [(cell, more) for cell in cells if more]


def resolution(plan: Plan, states: States) -> str:
    """What the primary comparison can resolve, with how many seeds; empty where there is no primary comparison."""
    study = plan.study
    if study.primary is None:
        return ""
    differences = _differences(study, plan.cells, states)
    if len(differences) < 2:
        return (
            f"What can be resolved of the primary comparison ({primary_text(study)}) is unknown: fewer than two of its "
            "seeds are done.\n"
        )
    deviation = float(np.std(differences, ddof=1))
    lines = [
        f"Primary comparison: {primary_text(study)}; deviation of paired differences {deviation:.2g}, measured on "
        f"{len(differences)} seeds."
    ]
    wanted = {_round(share * deviation): "" for share in SHARES if deviation > 0}
    if study.primary.margin is not None:
        wanted[study.primary.margin] = ", the margin,"
    lines += [
        f"To resolve {difference:g}{note} you need about {seeds_needed(difference, deviation, POWER)} seeds."
        for difference, note in sorted(wanted.items())
    ]
    most = study.until.max_seeds if study.until is not None else _seeds(plan)
    if most > 1:
        lines.append(
            f"{most} seeds resolve {resolvable(most, deviation, POWER):.2g} or more (with a power of {POWER:.0%})."
        )
    return "\n".join(lines) + "\n"


def _differences(study: StudyConfig, cells: Iterable[Cell], states: States) -> list[float]:
    """The primary comparison of each seed that has ended."""
    metrics = [objective.metric for objective in study.objectives]
    assert study.primary is not None
    which = metrics.index(study.primary.metric or study.objective)
    losses = []
    for cell in cells:
        state = states.get(cell.config_hash)
        if cell.phase is Phase.COMPARISON and state is not None and state.values is not None:
            losses.append((cell.axes, cell.config.seed, state.values[which]))
    return list(contrast(study.primary_terms(), losses).values.values())


def _seeds(plan: Plan) -> int:
    """Seeds that the cells of the primary comparison share."""
    terms = [dict(term.values) for term in plan.study.primary_terms()]
    shared = [set(plan.seeds_at(point)) for point in plan.points if point in terms]
    return len(set.intersection(*shared)) if len(shared) == len(terms) else 0


def _round(value: float) -> float:
    """The nearest number below of 1, 2 or 5 times a power of ten."""
    unit = 10.0 ** floor(log10(value))
    return float(f"{max(digit for digit in (1, 2, 5) if digit * unit <= value * (1 + 1e-9)) * unit:.3g}")
