"""Tuning: the cells that are still needed to choose a field's value for each variant and size, and the choice.

All of it follows from the configuration and from the results so far, so every process comes to the same cells.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isinf, isnan, nan
from typing import TYPE_CHECKING, Any, Protocol

from lina_lab.config.primary import OTHER_LOSS
from lina_lab.config.verdict import RACING_SEEDS
from lina_lab.decisions.tuning import Choice, ChoiceStatus, choose, choose_all, extended, rounded
from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.points import point_key

if TYPE_CHECKING:
    import optuna


class State(Protocol):
    """What is known of a cell: the part of a `CellState` that the next cells depend on."""

    @property
    def status(self) -> CellStatus: ...
    @property
    def values(self) -> list[float] | None: ...


States = Mapping[str, State]
"""config_hash -> state."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """How the tuning of one variant at one size stands."""

    point: dict[str, Any]
    """Field -> value, for the fields of the axes."""
    name: str
    """The point's name for people."""
    field: str
    tried: tuple[float, ...]
    """Values that all needed cells have tried, or are to try."""
    cells: tuple[Cell, ...]
    """The cells that it needs so far."""
    choice: Choice | None = None
    """None: cells have not ended."""
    limit: str = ""
    """Why its grid cannot grow further, as part of a sentence; empty: nothing keeps it from that."""

    @property
    def value(self) -> float | None:
        """The value to compare the variant at; None if there is none, or none yet."""
        return self.choice.value if self.choice is not None and self.choice.status is ChoiceStatus.OK else None

    @property
    def fields(self) -> dict[str, float]:
        """The tuned field with its value; empty where there is none."""
        return {} if self.value is None else {self.field: self.value}

    @property
    def regret(self) -> float:
        """The loss that the choice may give away; 0 where it is not known."""
        return 0.0 if self.choice is None or isnan(self.choice.regret) else self.choice.regret

    @property
    def problem(self) -> str:
        """Why no value can be chosen although all cells have ended, as part of a sentence; empty: nothing is wrong."""
        if self.choice is None or self.choice.status is ChoiceStatus.OK:
            return ""
        if self.choice.status in (ChoiceStatus.EDGE_LOW, ChoiceStatus.EDGE_HIGH):
            end = "smallest" if self.choice.status is ChoiceStatus.EDGE_LOW else "largest"
            return f"{self.name} is best at {self.choice.value:g}, the {end} value tried" + (
                self.limit and f" ({self.limit})"
            )
        return f"{self.name} is equally good, or diverges, at all of {', '.join(f'{value:g}' for value in self.tried)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the study's run in MLflow."""
        choice = self.choice
        numbers = ("curvature", "log_deviation", "regret")
        return {
            "axes": self.point,
            "field": self.field,
            "tried": sorted(self.tried),
            "value": self.value,
            "status": None if choice is None else choice.status.value,
            **{name: _number(None if choice is None else getattr(choice, name)) for name in numbers},
        }


TunedAt = Callable[[Mapping[str, Any]], Tuned | None]
"""Point -> the tuning whose value it takes."""


def tune(plan: Plan, states: States) -> tuple[Tuned, ...]:
    """The tuning of each variant and size that is tuned, as far as the results so far go.

    Raises:
        ValueError: the plan has none of the sizes that are to be tuned for a variant.
    """
    name, values = next(iter(plan.study.tune.items()))
    pairs = [_Pair(plan, plan.points[index], name, states) for index in dict.fromkeys(_sources(plan))]
    choices = [_decide(pair, sorted(set(values))) for pair in pairs]
    if None not in choices:
        # All have ended: now each is judged by the noise of all of its kind.
        kept = [plan.compared.get(point_key(pair.point)) for pair in pairs]
        kinds = [tuple(pair.point.get(field) for field in OTHER_LOSS) for pair in pairs]
        choices = list(choose_all([pair.losses for pair in pairs], pairs[0].direction, kept, kinds))
    return tuple(
        Tuned(
            point=pair.point,
            name=plan.point_name(pair.point),
            field=name,
            tried=tuple(pair.losses),
            cells=tuple(pair.cells.values()),
            choice=choice,
            limit=pair.limit,
        )
        for pair, choice in zip(pairs, choices, strict=True)
    )


def tuned_at(plan: Plan, tuned: Sequence[Tuned]) -> TunedAt:
    """The tuning whose value each point of the plan takes; None where nothing is tuned.

    A size that is not tuned takes the value of the nearest one that is, counted in places in the list of sizes; of two
    equally near ones the smaller.
    """
    if not tuned:
        return lambda point: None
    found = {point_key(one.point): one for one in tuned}
    sources = [found[point_key(plan.points[index])] for index in _sources(plan)]
    by_point = {point_key(point): source for point, source in zip(plan.points, sources, strict=True)}
    return lambda point: by_point[point_key(point)]


def fields_at(at: TunedAt, point: Mapping[str, Any]) -> dict[str, float]:
    """The tuned field with its value at a point; empty where nothing is tuned."""
    one = at(point)
    return {} if one is None else one.fields


def _sources(plan: Plan) -> list[int]:
    """For each point of the plan the index of the point whose tuning gives its value, which is often itself."""
    study, size_fields = plan.study, list(plan.study.axes[plan.study.size_axis])
    order = [dict(zip(size_fields, values, strict=True)) for values in study.points(study.size_axis)]
    wanted = [study.named(study.size_axis, name) for name in study.tuning.sizes]
    sizes = [{name: point[name] for name in size_fields} for point in plan.points]
    # A size that the command line gives may be in no list; then it is the only one.
    places = [order.index(size) if size in order else 0 for size in sizes]
    variants = [json.dumps([v for name, v in point.items() if name not in size_fields]) for point in plan.points]
    sources: dict[str, list[int]] = {variant: [] for variant in variants}
    for index, variant in enumerate(variants):
        if not wanted or sizes[index] in wanted:
            sources[variant].append(index)
    for variant, point in zip(variants, plan.points, strict=True):
        if not sources[variant]:
            raise ValueError(
                f"study.tuning.sizes={study.tuning.sizes}: the plan has none of these sizes for "
                f"{plan.point_name(point)}, which takes its value from the nearest of them"
            )
    return [
        min(sources[variant], key=lambda index: (abs(places[index] - place), places[index]))
        for variant, place in zip(variants, places, strict=True)
    ]


@dataclass
class _Pair:
    """The tuning of one variant at one size: what it needs is collected while its results are gone through."""

    plan: Plan
    point: dict[str, Any]
    name: str
    states: States
    cells: dict[str, Cell] = field(default_factory=dict)
    losses: dict[float, list[float]] = field(default_factory=dict)
    """Value -> objective of each seed; infinite: it diverged, NaN: there is none."""
    limit: str = ""
    """See `Tuned.limit`."""

    @property
    def seeds(self) -> list[int]:
        return self.plan.study.tuning.seeds

    @property
    def direction(self) -> Any:
        return self.plan.study.objectives[0].direction

    def need(self, value: float, count: int) -> list[float] | None:
        """Need the cells of a value's first seeds; returns their objectives, None if some have not ended."""
        row = self.losses.setdefault(value, [nan] * len(self.seeds))
        ended = True
        for index, seed in enumerate(self.seeds[:count]):
            cell = self.plan.cell(self.point, seed, {self.name: value}, Phase.TUNING)
            self.cells[cell.config_hash] = cell
            state = self.states.get(cell.config_hash)
            if state is not None and state.status is CellStatus.DIVERGED:
                row[index] = inf
            elif state is not None and state.status is CellStatus.DONE and state.values:
                row[index] = state.values[0]
            else:
                ended = False
        return row[:count] if ended else None

    def takes(self, value: float) -> bool:
        """Whether the trial takes a value by which the grid would grow; otherwise `limit` says why not."""
        try:
            self.plan.cell(self.point, self.seeds[0], {self.name: value}, Phase.TUNING)
        except ValueError as error:
            self.limit = str(error)
        return not self.limit

    def sampler_seed(self) -> int:
        """A seed that differs between variants and sizes, and is the same in every process."""
        text = json.dumps([self.name, self.point], sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def _decide(pair: _Pair, values: list[float]) -> Choice | None:
    """The choice; None if cells have not ended."""
    tuning, whole = pair.plan.study.tuning, len(pair.seeds)
    if tuning.racing or tuning.sampler == "tpe":
        if not _replay(pair, values):
            return None
    elif None in [pair.need(value, whole) for value in values]:
        return None
    choice = choose(pair.losses, pair.direction)
    for _ in range(tuning.extend):
        if choice.status not in (ChoiceStatus.EDGE_LOW, ChoiceStatus.EDGE_HIGH):
            break
        value = extended(list(pair.losses), choice.status)
        if not pair.takes(value):
            break
        if pair.need(value, whole) is None:
            return None
        choice = choose(pair.losses, pair.direction)
    return choice


def _replay(pair: _Pair, values: list[float]) -> bool:
    """Go through the trials of one Optuna study in memory, as far as results go; returns whether all have ended.

    The study is made anew each time. With the same results its sampler and its pruner decide the same.
    """
    tuning = pair.plan.study.tuning
    # From the middle outwards: racing needs a good value early.
    listed = sorted(values, key=lambda value: abs(values.index(value) - (len(values) - 1) / 2))
    whole, first = len(pair.seeds), RACING_SEEDS - 1 if tuning.racing else len(pair.seeds)
    # No pruner can decide before these seeds have ended, so all values can have them at once.
    early = [pair.need(value, whole if value == listed[0] else first) for value in listed]
    if tuning.sampler == "tpe" and None in early:
        return False
    study = _study_in_memory(pair, len(listed))
    for value, trial in _trials(study, listed, tuning.trials if tuning.sampler == "tpe" else len(listed)):
        if not _race(pair, study, trial, value, first):
            return False
    return True


def _race(pair: _Pair, study: "optuna.Study", trial: "optuna.Trial", value: float, first: int) -> bool:
    """Go through the seeds of one value; returns whether all that it needs have ended."""
    from optuna.trial import TrialState

    if pair.need(value, first) is None:
        return False
    for step in range(len(pair.seeds)):
        # Those before `first` are there; what follows is needed one by one, unless it is there from the beginning.
        row = pair.need(value, max(first, step + 1))
        if row is None:
            return False
        # A value that diverges once is worse than any that does not, whatever other seeds give.
        if isinf(row[step]):
            study.tell(trial, state=TrialState.PRUNED)
            return True
        trial.report(row[step], step)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return True
    study.tell(trial, sum(pair.losses[value]) / len(pair.seeds))
    return True


def _study_in_memory(pair: _Pair, listed: int) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    racing = pair.plan.study.tuning.racing
    with warnings.catch_warnings():
        # Optuna 5.0 calls this pruner experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        pruner = optuna.pruners.WilcoxonPruner() if racing else optuna.pruners.NopPruner()
    sampler = optuna.samplers.TPESampler(seed=pair.sampler_seed(), n_startup_trials=listed)
    return optuna.create_study(sampler=sampler, pruner=pruner, direction=pair.direction)


def _trials(study: "optuna.Study", listed: Sequence[float], count: int) -> Iterator[tuple[float, "optuna.Trial"]]:
    """The trials and their values: first those of the list, then the sampler's between the smallest and the largest."""
    from optuna.distributions import BaseDistribution, FloatDistribution

    space: dict[str, BaseDistribution] = {"value": FloatDistribution(min(listed), max(listed), log=True)}
    for value in listed:
        study.enqueue_trial({"value": value})
    for index in range(count):
        trial = study.ask(space)
        sampled = rounded(trial.params["value"], min(listed), max(listed))
        yield (listed[index] if index < len(listed) else sampled), trial


def _number(value: float | None) -> float | None:
    """A number for JSON, which knows no NaN."""
    return None if value is None or isnan(value) else value
