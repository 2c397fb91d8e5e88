"""From a study's axes to its cells."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lina_lab.config import LinaConfig, StudyConfig, TrialConfig, from_dict
from lina_lab.config.cautions import cautions, meaningless, refusal
from lina_lab.config.history import PLACES
from lina_lab.config.metrics import METRICS
from lina_lab.config.model import mixed_widths
from lina_lab.records.status import Phase
from lina_lab.study import lineage
from lina_lab.study.extension import Extension, images_of
from lina_lab.study.points import grid_points, shared, with_budget, with_values

if TYPE_CHECKING:
    from lina_lab.study.racing import Raced
    from lina_lab.study.stopping import Look
    from lina_lab.study.tuning import Tuned


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the grid with one seed."""

    config_hash: str
    """Hash of the configuration."""
    axes: dict[str, Any]
    """Field -> value, for the fields that the study varies."""
    config: TrialConfig
    label: str
    """A short name for people, such as `division none 32 seed 0`; no program reads it."""
    phase: Phase = Phase.COMPARISON
    tuned: dict[str, float] = dataclasses.field(default_factory=dict)
    """The field that the study tunes -> its value; empty where nothing is tuned."""
    again: dict[str, Any] = dataclasses.field(default_factory=dict)
    """For phase=rounding: field of `study.resources` -> the value that makes another order of sums."""
    images_before: int = 0
    """Images that the source has seen, where the cell goes on with its training."""
    flops_before: float = 0.0
    """Training FLOPs of all cells that the cell starts from."""
    teacher: LinaConfig | None = None
    """The model of the cell that this one is distilled from, whose forward pass is part of each step."""


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What a study was begun with, where it may be another thing now."""

    places: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Field of `history.PLACES` -> its value then, by which the cells are known in the stores."""
    contents: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What the study reads -> its fingerprint, see `contents.contents_of`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study with the cells that are known so far, and all that is needed to make more."""

    study: StudyConfig
    base: dict[str, Any]
    """What all cells share: the trial's fields without axes, tuned field and seed."""
    trial: dict[str, Any]
    """The trial's fields before axes, tuned field and seed set theirs, as plain nested data."""
    points: tuple[dict[str, Any], ...]
    """Field -> value for each variant and size."""
    begun: Begun = Begun()
    seed: int | None = None
    """The only seed, if the command line fixes it."""
    runs: Path = Path("runs")
    """Folder of all results, where weights to start from may be."""
    whole: bool = True
    """The command line fixes no field of an axis."""
    cells: tuple[Cell, ...] = ()
    tuned: tuple["Tuned", ...] = ()
    """How the tuning of each variant and size stands."""
    look: "Look | None" = None
    """The latest look at the primary comparison of a study that has `until`."""
    raced: "Raced | None" = None
    """How the races of a study with `pruning.rule=racing` stand."""
    stopped: str = ""
    """Why no cell can follow although the study has not ended, as a sentence; empty: nothing is wrong."""
    compared: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Point, see `points.point_key` -> the tuned value that its cells were compared at before; it stays."""
    _made: dict[str, Cell] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    """Cells that were made before: a plan that grows makes none again."""
    _checked: dict[str, TrialConfig] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    """A configuration for each point and tuned value: other seeds differ from it in the seed alone."""

    def digest(self) -> str:
        """A short hash of all cells."""
        # Not as the stores know them, which only the machine that leads has.
        return hashlib.sha256(" ".join(cell.config.config_hash() for cell in self.cells).encode()).hexdigest()[:12]

    def cautions(self) -> tuple[str, ...]:
        """A sentence for each number of the cells that means less than its name says, see `config.cautions`."""
        return tuple(dict.fromkeys(sentence for cell in self.cells for sentence in cautions(cell.config)))

    def seeds_at(self, values: Mapping[str, Any]) -> list[int]:
        """The seeds of a point of the grid, as the configuration has them."""
        if self.seed is not None:
            return [self.seed]
        size_field = next(iter(self.study.axes[self.study.size_axis]))
        return self.study.seeds_at_size.get(str(values[size_field]), self.study.seeds)

    def cell(
        self, values: Mapping[str, Any], seed: int, tuned: Mapping[str, float], phase: Phase = Phase.COMPARISON
    ) -> Cell:
        """Make a cell.

        Args:
            values: one of the points.
            seed: its seed.
            tuned: the tuned field -> its value; empty where nothing is tuned.
            phase: what the cell is trained for.

        Raises:
            ValueError: the trial refuses a value, or does not measure an objective.
        """
        key = json.dumps([values, seed, tuned, phase])
        if key not in self._made:
            config, source = self._config(values, seed, tuned), self._source(values, seed)
            before: dict[str, Any] = {}
            if source is not None:
                config = lineage.started_from(config, source, seed)
                before = {"flops_before": lineage.total_flops(source)}
                if config.start.distills:
                    before["teacher"] = lineage.teacher_of(config, source)
                if config.start.state == "training":
                    before["images_before"] = source.config.images_seen
            else:
                config = config if self._extension is None else self._extension.extended(config)
                before = {"images_before": images_of(config, self.runs)}
            shown = [f"{name.rpartition('.')[2]} {value:g}" for name, value in tuned.items()]
            parts = [self.point_name(values), *(shown if phase is Phase.TUNING else []), f"seed {seed}"]
            self._made[key] = Cell(
                config_hash=self._hash(config, values),
                axes=dict(values),
                config=config,
                label=" ".join(parts),
                phase=lineage.phase_of(self.study, values) if phase is Phase.COMPARISON else phase,
                tuned=dict(tuned),
                **before,
            )
        return self._made[key]

    @cached_property
    def _extension(self) -> Extension | None:
        """The study that this one extends."""
        return None if self.study.extends is None else Extension(self.runs / self.study.extends)

    def _source(self, values: Mapping[str, Any], seed: int) -> Cell | None:
        """The cell that the cell of a point starts from."""
        point = lineage.source_point(self.study, values)
        return None if point is None else self.cell(point, seed, {})

    def with_sources(self) -> "Plan":
        """The plan with all cells that its cells start from."""
        if self.study.stages is None:
            return self
        return replace(
            self, cells=lineage.with_sources(self.cells, lambda cell: self._source(cell.axes, cell.config.seed))
        )

    def _hash(self, config: TrialConfig, values: Mapping[str, Any], again: Mapping[str, Any] | None = None) -> str:
        varied = {field: value for field, value in values.items() if field in PLACES}
        own = config.config_hash({**self.begun.places, **varied})
        return hashlib.sha256(json.dumps([own, again], sort_keys=True).encode()).hexdigest()[:12] if again else own

    def with_rounding(self) -> "Plan":
        """The plan with the second trainings of its cells, by which the study measures rounding.

        Raises:
            ValueError: a batch cannot be divided as the second training needs it.
        """
        rounding = self.study.rounding
        if rounding is None:
            return self
        again, resources = rounding.changes, replace(self.study.resources, **rounding.changes)
        cells = [cell for cell in self.cells if cell.phase is Phase.COMPARISON]
        for batch_size in {cell.config.data.batch_size for cell in cells}:
            resources.check_batch(batch_size)
        repeats = [
            replace(
                cell,
                config_hash=self._hash(cell.config, cell.axes, again),
                label=f"{cell.label} again",
                phase=Phase.ROUNDING,
                again=again,
            )
            for cell in cells
            if cell.config.seed in (rounding.seeds or [cell.config.seed])
        ]
        return replace(self, cells=(*self.cells, *repeats))

    def as_begun(self, begun: Begun) -> "Plan":
        """The plan with the cells as the stores of a begun study know them."""
        plan, cells = replace(self, begun=begun, _made={}), list[Cell]()
        for cell in self.cells:
            config, source = cell.config, plan._source(cell.axes, cell.config.seed)
            if source is not None:
                config = lineage.started_from(config, source, config.seed)
            cells.append(replace(cell, config=config, config_hash=plan._hash(config, cell.axes, cell.again)))
        return replace(plan, cells=tuple(cells))

    def _config(self, values: Mapping[str, Any], seed: int, tuned: Mapping[str, float]) -> TrialConfig:
        """The trial of a point, checked once for all seeds: checking takes most of the time of a large study's plan."""
        key = json.dumps([values, tuned])
        if key not in self._checked:
            data = with_values(self.trial, {**values, **tuned, "seed": seed}, list(tuned))
            if self.study.stages is not None:
                starts = lineage.source_point(self.study, values) is not None
                if starts or data["start"]["source"] is None:
                    data["start"] = lineage.start_fields(data, starts=starts)
            config = lineage.with_hash(from_dict(TrialConfig, data), self.runs)
            if self.study.budget is not None:
                config = with_budget(config, self.study.budget)
            if (point := lineage.budget_point(self.study, values)) is not None:
                config = lineage.with_flops_of(config, self.cell(point, seed, {}))
            _check_measured(self.study, config)
            self._checked[key] = config
        return self._checked[key].with_seed(seed)

    def point_name(self, values: Mapping[str, Any]) -> str:
        """A point's name for people, such as `division none 32`."""
        return " ".join(self.study.point_name(axis, values) for axis in self.study.axes)


def make_plan(
    study: StudyConfig, base: Mapping[str, Any], overridden: Sequence[str] = (), runs: Path = Path("runs")
) -> Plan:
    """Cross the axes and the seeds.

    Args:
        study: the study.
        base: the trial's fields as plain nested data.
        overridden: fields that the command line fixes: an axis that varies one keeps only the value in `base`, and one
            that the study tunes is not tuned.
        runs: folder of all results, where weights to start from may be.

    Returns:
        The plan with the cells that depend on no result: none yet where a field is tuned, see `rounds.grown`.

    Raises:
        ValueError: the study varies an unknown field, a trial refuses a value, two cells are equal, or weights to start
            from are not there.
    """
    base = lineage.with_hash_of_source(base, runs)
    if set(study.tune) & set(overridden):
        study = replace(study, tune={})
    plan = Plan(
        study=study,
        base=shared(study, base),
        trial=dict(base),
        points=grid_points(study, base, overridden),
        runs=runs,
        seed=base["seed"] if "seed" in overridden else None,
        whole=not any(name in axis for axis in study.axes.values() for name in overridden),
    )
    _check_seed(plan)
    # A tuned study's cells are checked here, with any of the values.
    cells = grid_cells(plan, lambda values: {name: tried[0] for name, tried in study.tune.items()})
    if plan._extension is not None and not study.tune:
        plan._extension.check_any(cell.config for cell in cells)
    return plan if study.tune else replace(plan, cells=cells).with_sources().with_rounding()


def grid_cells(plan: Plan, tuned_at: Callable[[Mapping[str, Any]], Mapping[str, float]]) -> tuple[Cell, ...]:
    """The cells of the comparison: each point with each of its seeds.

    Args:
        plan: the points and seeds.
        tuned_at: the tuned field and its value at a point.

    Raises:
        ValueError: a trial refuses a value, or two cells are equal.
    """
    cells: dict[str, Cell] = {}
    # Seeds are outermost: a study that is stopped early has complete grids.
    own = [(values, plan.seeds_at(values)) for values in plan.points]
    every = dict.fromkeys(seed for _, seeds in own for seed in seeds)
    for seed, (values, seeds) in itertools.product(every, own):
        if seed not in seeds:
            continue
        cell = plan.cell(values, seed, tuned_at(values))
        if cell.config_hash in cells:
            raise ValueError(f"two cells of the study are equal: {cell.label}")
        cells[cell.config_hash] = cell
    if (problem := mixed_widths(cell.config.model for cell in cells.values())) is not None:
        raise ValueError(problem)
    return tuple(cells.values())


def _check_seed(plan: Plan) -> None:
    if plan.study.tune and plan.seed in plan.study.tuning.seeds:
        raise ValueError(f"seed={plan.seed} is one of study.tuning.seeds {plan.study.tuning.seeds}; take another")


def _check_measured(study: StudyConfig, config: TrialConfig) -> None:
    for objective in study.objectives:
        if (field := METRICS[objective.metric].not_measured(config)) is not None:
            raise ValueError(f"study.objectives names {objective.metric}, which {field} does not measure")
        if (why := meaningless(config, objective.metric)) is not None:
            raise ValueError(f"study.objectives names {objective.metric}, which {why}")
    if (sentence := refusal(config)) is not None:
        raise ValueError(sentence)
