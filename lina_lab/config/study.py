"""The configuration of a study."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, Checked, NonNegativeInt, PositiveFloat, matching
from lina_lab.config.objectives import BudgetConfig, ObjectiveConfig
from lina_lab.config.primary import ContrastTerm, PrimaryConfig, primary_problems, primary_terms
from lina_lab.config.pruning import PruningConfig, pruning_problems
from lina_lab.config.resources import ResourcesConfig
from lina_lab.config.stages import StagesConfig
from lina_lab.config.verdict import RoundingConfig, TuningConfig, UntilConfig

RESERVED = ("mlartifacts", "Default")
"""Names that the stores use for themselves."""

NAMES = "letters, digits, _ and -, up to 100, with a letter or a digit first"


def _with_values(tune: dict[str, list[float]]) -> dict[str, list[float]]:
    """Hydra merges mappings, so a field can be taken back by an empty list only."""
    return {name: values for name, values in tune.items() if values}


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class StudyConfig(Checked):
    """One question: what is varied, and with which seeds."""

    name: Annotated[str, matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", NAMES)]
    """Name of the study in every store and of its folder; another name makes another study."""
    question: str
    """The question that the study answers."""
    axes: dict[str, dict[str, list[Any]]]
    """Axis name -> field -> its values; the fields of one axis move together, the axes are crossed."""
    labels: dict[str, list[str]] = field(default_factory=dict)
    """Axis name -> a short label for each of its values, where the values themselves are long."""
    size_axis: str
    """The axis along which models grow; the others make the variants that are compared."""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    """Seeds of each cell; variants with the same seed see the same data, masks and noise."""
    seeds_at_size: dict[str, Annotated[list[NonNegativeInt], Field(min_length=1)]] = field(default_factory=dict)
    """Seeds of single sizes, instead of `seeds`: value of the size axis' first field, as text -> seeds."""
    exclude: list[dict[str, Any]] = field(default_factory=list)
    """Cells to leave out: each rule maps fields of the axes to a value or a list of values; a cell that matches all
    fields of a rule is left out."""
    budget: BudgetConfig | None = None
    """Training budget of each cell; null: trainer.max_images."""
    objectives: Annotated[list[ObjectiveConfig], Field(min_length=1)] = field(
        default_factory=lambda: [ObjectiveConfig(metric="val/loss_ema")]
    )
    """Metrics by which cells are compared; the first is the main one."""
    primary: PrimaryConfig | None = None
    """The comparison that the study is made for, such as {axis: gate, treatment: kv, baseline: none}; null: every
    comparison is exploratory."""
    tune: Annotated[dict[str, list[PositiveFloat]], AfterValidator(_with_values)] = field(default_factory=dict)
    """Field -> values that are tried for each variant and size, such as {optimizer.lr: [0.001, 0.002, 0.004]}; the
    variants are then compared at their own best. Empty: nothing is tuned; an empty list takes back what the study
    says, as in {optimizer.lr: []}."""
    tuning: TuningConfig = TuningConfig()
    """How `tune` chooses."""
    until: UntilConfig | None = None
    """When enough seeds are trained, such as {primary: resolved, max_seeds: 16} or {width: 0.01, max_seeds: 16}; null:
    `seeds` are all."""
    rounding: RoundingConfig | None = None
    """Measure how far each variant amplifies rounding, by a second training with the sums in another order, such as
    {threads: 2} or {accumulate_grad_batches: 2, seeds: [0]}; null: not measured."""
    stages: StagesConfig | None = None
    """Cells that start from the weights of others; null: each cell starts from drawn weights, or from start.source."""
    extends: str | None = None
    """Another study in the folder of runs with a smaller trainer.max_images: each cell that differs from a finished one
    of it in the budget alone goes on where that ended; null: none."""
    pruning: PruningConfig | None = None
    """Give up cells early, such as {rule: racing} or {rule: median, options: {n_startup_trials: 8}}; null: all are
    trained to their end."""
    resources: ResourcesConfig = ResourcesConfig()
    """Hardware of each cell; not part of its config hash."""

    def _problems(self) -> Iterator[str]:
        if self.name in RESERVED:
            yield f"name={self.name} is taken by the stores; take another"
        if not self.axes:
            yield "axes is empty: a study varies something"
        if self.size_axis not in self.axes:
            axes = ", ".join(sorted(self.axes))
            yield f"size_axis={self.size_axis} is not one of the axes {axes}; study.axes.NAME={{...}} adds one"
        fields = [name for axis in self.axes.values() for name in axis]
        for name in fields:
            if fields.count(name) > 1:
                yield f"axes: {name} is in more than one axis"
        for name, axis in self.axes.items():
            lengths = {len(values) for values in axis.values()}
            if lengths in (set(), {0}) or len(lengths) > 1:
                counts = ", ".join(f"{field} has {len(values)}" for field, values in axis.items())
                yield f"axes.{name}: its fields need lists of one length, of at least one value ({counts or 'none'})"
        for name, labels in self.labels.items():
            if name not in self.axes or len(labels) != len(self.points(name)) or len(set(labels)) < len(labels):
                yield f"labels.{name}: needs to be an axis, with a different label for each of its values"
        yield from self._problems_of_seeds()
        yield from self._problems_of_exclusions()
        yield from self._problems_of_until()
        yield from primary_problems(self)
        yield from self._problems_of_tuning()
        yield from self._problems_of_rounding()
        yield from self._problems_of_stages()
        yield from pruning_problems(self)

    def _problems_of_seeds(self) -> Iterator[str]:
        at_size = {f"seeds_at_size.{size}": seeds for size, seeds in self.seeds_at_size.items()}
        for where, seeds in {"seeds": self.seeds, **at_size}.items():
            if len(set(seeds)) < len(seeds):
                yield f"{where}={seeds} names a seed twice"
        sizes = [str(value) for value in next(iter(self.axes[self.size_axis].values()))]
        for size in self.seeds_at_size:
            if size not in sizes:
                yield f"seeds_at_size: {size} is not one of the sizes {sizes}"

    def _problems_of_exclusions(self) -> Iterator[str]:
        fields = [name for axis in self.axes.values() for name in axis]
        metrics = [objective.metric for objective in self.objectives]
        if len(set(metrics)) < len(metrics):
            yield f"objectives: {metrics} names a metric twice"
        for rule in self.exclude:
            if not rule or set(rule) - set(fields):
                yield f"exclude: {rule} must name fields that the axes vary, which are {fields}"

    def _problems_of_until(self) -> Iterator[str]:
        if self.until is not None:
            if self.primary is None:
                yield "until needs a primary comparison to look at: declare study.primary"
            if self.until.max_seeds < len(self.seeds):
                yield f"until.max_seeds={self.until.max_seeds} is below the {len(self.seeds)} seeds of the start"

    def _problems_of_tuning(self) -> Iterator[str]:
        if len(self.tune) > 1:
            yield f"tune: one field is tuned at a time, not {', '.join(self.tune)}; FIELD:[] takes one back"
        for name, values in self.tune.items():
            if len(set(values)) < 3:
                yield f"tune.{name}={values} needs at least three different values: fewer do not enclose an optimum"
            if any(name in axis for axis in self.axes.values()):
                yield f"tune: {name} is also varied by an axis"
            if name == "seed":
                yield "tune: seed is not a field to tune"
            if self.tuning.sampler == "tpe" and self.tuning.trials <= len(set(values)):
                yield f"tuning.trials={self.tuning.trials} must exceed the values of tune.{name} for sampler=tpe"
        both = sorted(self._own_seeds & set(self.tuning.seeds))
        if self.tune and both:
            yield f"tuning.seeds: {both} are seeds of the study too; a choice made on them would favor its own results"
        for size in self.tuning.sizes:
            if self.named(self.size_axis, size) is None:
                yield f"tuning.sizes: {size} is not one of the sizes {self.point_names(self.size_axis)}"

    def _problems_of_rounding(self) -> Iterator[str]:
        if self.rounding is None:
            return
        for name, value in self.rounding.changes.items():
            if getattr(self.resources, name) == value:
                yield f"rounding.{name}={value} is that of study.resources too: give another number"
        foreign = [seed for seed in self.rounding.seeds if seed not in self._own_seeds]
        if foreign:
            yield f"rounding.seeds: {foreign} are not seeds of the study"

    def _problems_of_stages(self) -> Iterator[str]:
        if self.extends is not None:
            for name, value in {"stages": self.stages, "rounding": self.rounding}.items():
                if value is not None:
                    yield f"extends and {name} do not go together"
            if self.extends == self.name:
                yield f"extends={self.extends} is the study itself: give the longer one another name (study.name=...)"
        if self.stages is None:
            return
        stages = self.stages
        if stages.axis not in self.axes or stages.axis == self.size_axis:
            yield f"stages.axis={stages.axis} is not an axis that makes variants"
            return
        yield from stages.problems_of_names(self.point_names(stages.axis))
        if self.tune:
            yield "stages and tune do not go together: tune each stage in a study of its own, and give its value"
        primary = self.primary
        if primary is not None:
            sides = [primary.treatment, primary.baseline] if primary.axis == stages.axis else []
            across = primary.across
            sides += [across.treatment, across.baseline] if across is not None and across.axis == stages.axis else []
            for name in [*sides, *(name for axis, name in primary.at.items() if axis == stages.axis)]:
                if name in stages.not_compared:
                    yield f"stages.not_compared: {name} is in the primary comparison"

    @property
    def _own_seeds(self) -> set[int]:
        return {*self.seeds, *(seed for seeds in self.seeds_at_size.values() for seed in seeds)}

    def named(self, axis: str, name: str) -> dict[str, Any] | None:
        """The values of an axis' fields at the point of that name, or whose first value reads so."""
        fields = list(self.axes[axis])
        for point in self.points(axis):
            values = dict(zip(fields, point, strict=True))
            first = point[0] if isinstance(point[0], str) else json.dumps(point[0])
            if name in (self.point_name(axis, values), first):
                return values
        return None

    def point_names(self, axis: str) -> list[str]:
        """The names of an axis' values, see `point_name`."""
        return [self.point_name(axis, dict(zip(self.axes[axis], point, strict=True))) for point in self.points(axis)]

    def primary_terms(self) -> tuple[ContrastTerm, ...]:
        """The primary comparison as a weighted sum of losses of one seed, see `primary.primary_terms`."""
        return primary_terms(self)

    def points(self, axis: str) -> list[tuple[Any, ...]]:
        """The values of an axis, each one value for each of its fields."""
        return list(zip(*self.axes[axis].values(), strict=True))

    def point_name(self, axis: str, values: Mapping[str, Any]) -> str:
        """The name of an axis' value for people: its label, or the fields' values, text as it is and the rest as JSON.

        Args:
            axis: the axis.
            values: field -> value, for the axis' fields.
        """
        point = tuple(values[name] for name in self.axes[axis])
        if axis in self.labels and point in self.points(axis):
            return self.labels[axis][self.points(axis).index(point)]
        return ", ".join(value if isinstance(value, str) else json.dumps(value) for value in point)

    @property
    def objective(self) -> str:
        """The main objective's metric."""
        return self.objectives[0].metric
