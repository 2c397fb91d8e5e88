"""Which seeds of which variants a study with `study.pruning.rule=racing` trains, and which it gives up.

All of it follows from the configuration and from the results so far, so every process comes to the same cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

from lina_lab.decisions.racing import Dropped, race
from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.contest import contest, is_source, racing_options
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.points import point_key
from lina_lab.study.tuning import States, TunedAt


@dataclass(frozen=True, kw_only=True)
class Raced:
    """How the races of a study stand, one for each size."""

    due: tuple[Cell, ...]
    """The cells of the comparison that are to be trained so far."""
    given_up: tuple[Cell, ...]
    """Those that are never trained."""
    reasons: Mapping[str, str]
    """Config hash of a cell that is given up -> a sentence."""
    lines: tuple[str, ...]
    """For people: a line for each variant that left its race."""
    begun: bool
    """Whether a look was taken: the rule stays from then on."""


def raced(plan: Plan, states: States, at: TunedAt, grid: Sequence[Cell]) -> Raced | None:
    """How the races stand.

    Args:
        plan: the study.
        states: states of the cells.
        at: the tuning of each point.
        grid: the cells of all points; only those of the comparison race.

    Returns:
        None where the plan does not race.
    """
    options = racing_options(plan)
    if options is None:
        return None
    spared, races = _spared(plan), dict[str, list[Cell]]()
    for cell in grid:
        if cell.phase is Phase.COMPARISON:
            races.setdefault(contest(plan, cell), []).append(cell)
    due, reasons, lines, begun = set[str](), dict[str, str](), list[str](), False
    for cells in races.values():
        points: dict[str, list[Cell]] = {}
        for cell in cells:
            points.setdefault(point_key(cell.axes), []).append(cell)
        names = {key: plan.point_name(own[0].axes) for key, own in points.items()}
        found = race(
            {key: [_value(states, cell) for cell in own] for key, own in points.items()},
            block=options.block,
            level=options.level / len(races),
            direction=plan.study.objectives[0].direction,
            spared=spared | {key for key, own in points.items() if is_source(plan, own[0])},
            regrets=_regrets(at, points),
        )
        begun = begun or found.looked > 0
        for key, own in points.items():
            left = found.dropped.get(key)
            due |= {cell.config_hash for cell in own[: found.due if left is None else left.seeds]}
            if left is not None:
                sentence = _sentence(names, key, left)
                lines.append(sentence)
                reasons |= {cell.config_hash: f"never trained: {sentence}" for cell in own[left.seeds :]}
    return Raced(
        due=tuple(cell for cell in grid if cell.config_hash in due),
        given_up=tuple(cell for cell in grid if cell.config_hash in reasons),
        reasons=reasons,
        lines=tuple(lines),
        begun=begun,
    )


def _spared(plan: Plan) -> set[str]:
    """The points of the primary comparison: its interval holds for all of their seeds."""
    study = plan.study
    return set() if study.primary is None else {point_key(term.values) for term in study.primary_terms()}


def _value(states: States, cell: Cell) -> float | None:
    """The main objective of a cell; NaN: it has ended without one, None: it has not ended."""
    state = states.get(cell.config_hash)
    if state is None or not state.status.final:
        return None
    return state.values[0] if state.status is CellStatus.DONE and state.values else nan


def _regrets(at: TunedAt, points: Mapping[str, Sequence[Cell]]) -> dict[str, float] | None:
    """What the choice of each point's tuned value may give away; None where nothing is tuned."""
    tuned = {key: at(own[0].axes) for key, own in points.items()}
    return {key: one.regret for key, one in tuned.items() if one is not None} or None


def _sentence(names: Mapping[str, str], key: str, left: Dropped[str]) -> str:
    found = left.interval
    return (
        f"{names[key]} left the race after {left.seeds} seeds: {found.value:+.4g} to {names[left.best]} "
        f"({found.low:+.4g} to {found.high:+.4g} over all looks and pairs)"
    )
