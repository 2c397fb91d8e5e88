"""Seeds until it is answered: which seeds the primary comparison still needs under `study.until`.

The interval is a repeated confidence interval: it stays valid although the study ends when it has the answer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import nan
from typing import Any

from lina_lab.config.primary import ContrastTerm
from lina_lab.config.verdict import UntilConfig
from lina_lab.decisions.contrast import contrast, widened_contrast
from lina_lab.decisions.sequential import MeanInterval, looks, sequential_interval
from lina_lab.decisions.verdicts import Outcome, judge
from lina_lab.records.status import CellStatus
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.tuning import States, TunedAt, fields_at


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at the primary comparison."""

    trained: int
    """Seeds that were trained, diverged ones included."""
    interval: MeanInterval
    """The interval over those that did not diverge."""
    outcome: Outcome
    enough: bool
    """The rule is met, or there are `max_seeds`: no seed is added."""

    def __str__(self) -> str:
        """A line for people."""
        found, outcome = self.interval, self.outcome.replace("_", " ")
        start, end = f"primary comparison with {self.trained} seeds", "" if self.enough else ": more seeds follow"
        if self.outcome is Outcome.NO_INTERVAL:
            return f"{start}: {outcome}{end}"
        interval = f"{found.level:.0%} interval {found.low:+.4g} to {found.high:+.4g}"
        return f"{start}: {found.value:+.4g} ({interval}), {outcome}{end}"


def compared(plan: Plan) -> tuple[list[dict[str, Any]], list[int]]:
    """The points of the primary comparison that `study.until` looks at, and the seeds that they share to begin with.

    Both are empty where the command line asks for a part of the study that the comparison is not in, or for one seed.

    Raises:
        ValueError: the primary comparison has no cells, or no seed that all its cells share.
    """
    terms = plan.study.primary_terms() if plan.study.until is not None and plan.seed is None else ()
    points = [point for point in plan.points if any(point == dict(term.values) for term in terms)]
    if len(points) < len(terms):
        if plan.whole:
            raise ValueError("study.exclude leaves out a cell of the primary comparison, which study.until looks at")
        return [], []
    seeds = (
        [seed for seed in plan.seeds_at(points[0]) if all(seed in plan.seeds_at(point) for point in points)]
        if points
        else []
    )
    if points and not seeds:
        raise ValueError(
            "study.until needs seeds that all cells of the primary comparison share; seeds_at_size has none"
        )
    return points, seeds


def more_seeds(plan: Plan, states: States, at: TunedAt) -> tuple[tuple[Cell, ...], Look | None]:
    """The cells that the rule adds to the grid, as far as the results so far go.

    Args:
        plan: the study.
        states: states of the cells.
        at: the tuning of each point.

    Returns:
        The cells, and the latest look whose cells have all ended; None where there is none yet.

    Raises:
        ValueError: the primary comparison has no cells, or no seed that all its cells share.
    """
    until, (points, seeds) = plan.study.until, compared(plan)
    if until is None or not points:
        return (), None
    terms = plan.study.primary_terms()
    regrets = [_regret(at, term) for term in terms]
    plans, fresh = looks(len(seeds), max(until.max_seeds, len(seeds)), until.step), _fresh_seeds(plan)
    cells, added, look = [plan.cell(point, seed, fields_at(at, point)) for seed in seeds for point in points], [], None
    for planned in plans:
        while len(seeds) < planned:
            seeds.append(next(fresh))
            added += [plan.cell(point, seeds[-1], fields_at(at, point)) for point in points]
        found = _look([*cells, *added], plan, states, regrets, plans)
        if found is None or found.enough:
            return tuple(added), found or look
        look = found
    return tuple(added), look


def _look(cells: list[Cell], plan: Plan, states: States, regrets: list[float], plans: tuple[int, ...]) -> Look | None:
    """A look at the comparison; None if a cell has not ended.

    Args:
        cells: those of the comparison.
        plan: the study.
        states: states of the cells.
        regrets: what the choice of each term's tuned value may give away.
        plans: numbers of seeds at which one looks.
    """
    study, until = plan.study, plan.study.until
    assert until is not None
    assert study.primary is not None
    metrics = [objective.metric for objective in study.objectives]
    which = metrics.index(study.primary.metric or study.objective)
    losses = []
    for cell in cells:
        state = states.get(cell.config_hash)
        if state is None or not state.status.final:
            return None
        loss = state.values[which] if state.status is CellStatus.DONE and state.values else nan
        losses.append((cell.axes, cell.config.seed, loss))
    terms, direction = study.primary_terms(), study.objectives[which].direction
    found = contrast(terms, losses)
    interval = sequential_interval(list(found.values.values()), plans)
    # What is judged is the variants at their own best, as the report does.
    if which == 0:
        interval = widened_contrast(interval, terms, found.levels, regrets, direction)
    outcome = judge(interval, study.primary.margin)
    trained = len(cells) // len(terms)
    return Look(
        trained=trained,
        interval=interval,
        outcome=outcome,
        enough=trained >= plans[-1] or _met(until, interval, outcome),
    )


def _regret(at: TunedAt, term: ContrastTerm) -> float:
    one = at(term.values)
    return 0.0 if one is None else one.regret


def _met(until: UntilConfig, interval: MeanInterval, outcome: Outcome) -> bool:
    if until.width is not None:
        return interval.high - interval.low <= until.width
    return outcome not in (Outcome.UNDECIDED, Outcome.NO_INTERVAL)


def _fresh_seeds(plan: Plan) -> Iterator[int]:
    """Seeds to add, in their order: numbers after the study's largest seed that it uses for nothing else."""
    study = plan.study
    used = {*study.seeds, *study.tuning.seeds, *(seed for own in study.seeds_at_size.values() for seed in own)}
    return (seed for seed in count(max(study.seeds) + 1) if seed not in used)
