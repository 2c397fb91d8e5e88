"""A study whose next cells follow from results: tuning first, then the comparison, then more seeds for it."""

from dataclasses import replace

from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.contest import racing_options
from lina_lab.study.grid import Cell, Plan, grid_cells
from lina_lab.study.racing import raced
from lina_lab.study.stopping import compared, more_seeds
from lina_lab.study.tuning import States, fields_at, tune, tuned_at


def grown(plan: Plan, states: States) -> Plan:
    """The plan with every cell that follows from the results so far.

    A pure function: the same configuration and the same states give the same cells, in every process and in whatever
    order the cells ended. More results only add cells.

    Args:
        plan: the study, with whatever cells.
        states: states of all its cells, by config hash.

    Raises:
        ValueError: the study asks for cells that cannot be made.
    """
    study = plan.study
    if not grows(plan):
        return plan
    compared(plan)  # refuses a comparison that cannot be looked at, before anything is trained
    tuned = tune(plan, states) if study.tune else ()
    trials = tuple(cell for one in tuned for cell in one.cells)
    plan = replace(plan, tuned=tuned, cells=trials, look=None, stopped=_stopped(trials, states))
    if any(one.value is None for one in tuned):
        ended = all(one.choice is not None for one in tuned)
        return replace(plan, stopped=plan.stopped or (_refusal(plan) if ended else ""))
    at = tuned_at(plan, tuned)
    added, look = more_seeds(plan, states, at) if study.until is not None else ((), None)
    grid = grid_cells(plan, lambda point: fields_at(at, point))
    race = raced(plan, states, at, grid)
    cells = (*trials, *(grid if race is None else race.due), *added)
    plan = replace(plan, cells=cells, look=look, raced=race).with_sources()
    # Nothing is trained for the sake of those that are given up.
    return replace(plan, cells=(*plan.cells, *(() if race is None else race.given_up))).with_rounding()


def grows(plan: Plan) -> bool:
    """Whether results can add cells to the plan."""
    return bool(plan.study.tune) or plan.study.until is not None or racing_options(plan) is not None


def phase(plan: Plan) -> Phase:
    """What the study is at."""
    return Phase.COMPARISON if all(one.value is not None for one in plan.tuned) and plan.cells else Phase.TUNING


def notes(plan: Plan) -> list[str]:
    """How tuning and stopping stand, a line each, for people."""
    lines = []
    for one in plan.tuned:
        if one.value is not None:
            lines.append(f"{one.name}: {one.field} {one.value:g} of {', '.join(f'{v:g}' for v in sorted(one.tried))}")
    lines += [] if plan.raced is None else plan.raced.lines
    return [*lines, *([] if plan.look is None else [str(plan.look)])]


def _stopped(trials: tuple[Cell, ...], states: States) -> str:
    """A sentence on tuning cells that have ended without a result."""
    failed = [
        (cell, states[cell.config_hash].status)
        for cell in trials
        if cell.config_hash in states and states[cell.config_hash].status in (CellStatus.FAILED, CellStatus.CANCELLED)
    ]
    if not failed:
        return ""
    cell, status = failed[0]
    how = "failed" if status is CellStatus.FAILED else "was cancelled"
    others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"the tuning cell {cell.label}{others} {how}, so the comparison cannot start: the same command retries it"


def _refusal(plan: Plan) -> str:
    """A sentence on optima that were not found."""
    name = next(iter(plan.study.tune))
    problems = "; ".join(one.problem for one in plan.tuned if one.problem)
    wider = "a wider range, or let it grow with study.tuning.extend=N"
    if all(one.limit for one in plan.tuned if one.problem):
        wider = "values nearer to the limit"
    return (
        f"no optimum of {name} was found: {problems}; give study.tune={{{name}:[...]}} {wider} "
        "(what is trained is kept)"
    )
