"""What a study answers so far: its primary comparison with the interval that the report gives it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan

from lina_lab.config import ContrastTerm
from lina_lab.config.primary import other_sizes, primary_text
from lina_lab.decisions.contrast import contrast, widened_contrast
from lina_lab.decisions.moderated import interval_of_seeds
from lina_lab.decisions.sequential import MeanInterval
from lina_lab.decisions.verdicts import Outcome, judge
from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.cells import CellState
from lina_lab.study.grid import Plan
from lina_lab.study.tuning import tuned_at


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The primary comparison over the seeds whose cells have ended."""

    subject: str
    """What is compared, for people."""
    interval: MeanInterval
    outcome: Outcome

    @property
    def numbers(self) -> dict[str, float]:
        """Name of a metric of the study's run -> its value, for those that are known."""
        found = self.interval
        every = {"difference": found.value, "low": found.low, "high": found.high, "seeds": float(found.seeds)}
        return {f"primary/{name}": value for name, value in every.items() if not isnan(value)}

    def __str__(self) -> str:
        """A sentence."""
        found = self.interval
        if not found.seeds:
            return f"{self.subject}: no seed has all the cells of the comparison yet."
        seeds = f"{found.seeds} seed{'' if found.seeds == 1 else 's'}"
        if self.outcome is Outcome.NO_INTERVAL:
            return f"{self.subject}: {found.value:+.4g} ({seeds}, no interval)."
        interval = f"{found.level:.0%} interval {found.low:+.4g} to {found.high:+.4g}, {seeds}"
        return f"{self.subject}: {found.value:+.4g} ({interval}): {self.outcome.value}."


def answer(plan: Plan, states: Mapping[str, CellState]) -> Answer | None:
    """The answer so far; None where the study declares no primary comparison, or the plan has no cell of it.

    Args:
        plan: the study with its cells.
        states: states of the cells, by config hash.
    """
    study = plan.study
    primary = study.primary
    if primary is None:
        return None
    terms = study.primary_terms()
    if not all(dict(term.values) in plan.points for term in terms):
        return None
    subject = primary_text(study)
    if study.until is not None:
        look = plan.look
        interval = MeanInterval(nan, nan, nan, 0.95, 0) if look is None else look.interval
        return Answer(subject=subject, interval=interval, outcome=judge(interval, primary.margin))
    metrics = [objective.metric for objective in study.objectives]
    which = metrics.index(primary.metric or study.objective)
    cells = [
        (cell.axes, cell.config.seed, state.values[which])
        for cell in plan.cells
        if cell.phase is Phase.COMPARISON
        and (state := states.get(cell.config_hash)) is not None
        and state.status is CellStatus.DONE
        and state.values
    ]
    found = contrast(terms, cells)
    values = list(found.values.values())
    others = [list(contrast(at_size, cells).values.values()) for at_size in other_sizes(study, terms)]
    interval, _ = interval_of_seeds(values, others)
    if which == 0:
        direction = study.objectives[0].direction
        interval = widened_contrast(interval, terms, found.levels, _regrets(plan, terms), direction)
    return Answer(subject=subject, interval=interval, outcome=judge(interval, primary.margin))


def _regrets(plan: Plan, terms: tuple[ContrastTerm, ...]) -> list[float]:
    """What the choice of each term's tuned value may give away."""
    at = tuned_at(plan, plan.tuned)
    return [0.0 if (one := at(term.values)) is None else one.regret for term in terms]
