"""The configuration of a study, and of where results go."""

import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, NonNegativeInt, OneOf, PositiveFloat, PositiveInt, contradiction
from lina_lab.config.metrics import METRICS

RESERVED = ("mlartifacts", "Default")
"""Names that the stores use for themselves."""
NOT_IN_A_PATH = "%?#"
"""Characters that a database's address cannot hold."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class ObjectiveConfig:
    """A metric, as it is at the end of training."""

    metric: Annotated[str, OneOf(METRICS)]
    """Name of the metric."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Which way is better: maximize for eval/captions, minimize for the other built-in metrics."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        better = METRICS[self.metric].direction
        if self.direction != better:
            raise contradiction(f"metric={self.metric} needs direction={better}")
        return self


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class BudgetConfig:
    """What a cell may use up, turned into images; equal for all cells."""

    unit: Literal["images", "tokens", "flops"]
    """images seen; image tokens seen; FLOPs of training (two for a multiply-add, see `model/count.py`)."""
    amount: PositiveFloat
    """How much of it."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class ResourcesConfig:
    """What a cell runs on."""

    nodes: PositiveInt = 1
    """Machines."""
    devices: PositiveInt = 1
    """Devices of each machine, a process for each: GPUs, or shares of the processor where there are none."""
    accelerator: Literal["auto", "gpu", "cpu"] = "auto"
    """gpu refuses a machine that has none; auto takes GPUs where there are any, and else the processor."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several devices train one model: each with a copy of it (ddp), or each with a part of it (fsdp)."""
    accumulate_grad_batches: PositiveInt = 1
    """Portions in which a device takes its part of the batch, one after another. The batch stays data.batch_size."""
    timeout_seconds: PositiveFloat = 300.0
    """How long one device waits for another before the group is taken for broken."""
    max_minutes: PositiveFloat | None = None
    """Training time of a cell, over all the times that it is taken up; one that takes longer saves its state and is
    cancelled. null: no limit."""
    max_restarts: NonNegativeInt = 3
    """How often a cell whose group of processes died is started again, each time from its last checkpoint."""
    flops_per_second: PositiveFloat | None = None
    """Stated rate of a device in training, for `action=plan`; null: as measured on cells of the study that are done."""

    @property
    def world_size(self) -> int:
        """Processes that train together."""
        return self.nodes * self.devices

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch that cannot be shared out evenly.

        Raises:
            ValueError: which numbers do not fit.
        """
        shares = self.world_size * self.accumulate_grad_batches
        if batch_size % shares:
            raise ValueError(
                f"data.batch_size={batch_size} cannot be shared out evenly: study.resources has nodes={self.nodes} x "
                f"devices={self.devices} x accumulate_grad_batches={self.accumulate_grad_batches} = {shares} portions"
            )


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class StudyConfig:
    """One question: what is varied, how often, and what is held equal."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]
    """Name of the study in every store and of its folder; another name makes a study of its own."""
    question: str
    """What the study is to find out."""
    axes: dict[str, dict[str, list[Any]]]
    """Axis name -> field -> its values; the fields of one axis move together, the axes are crossed."""
    labels: dict[str, list[str]] = field(default_factory=dict)
    """Axis name -> a short name for each of its values, where the values themselves are long."""
    size_axis: str
    """The axis along which models grow; the others make the variants that are compared."""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    """Seeds of each cell; two variants with one seed see the same data, masks and noise."""
    controlled: list[str]
    """What is the same for all cells, as a reviewer would want to read it."""
    seeds_at_size: dict[str, Annotated[list[NonNegativeInt], Field(min_length=1)]] = field(default_factory=dict)
    """Seeds of single sizes, in place of `seeds`: value of the size axis' first field, as text -> seeds."""
    exclude: list[dict[str, Any]] = field(default_factory=list)
    """Cells to leave out: each rule maps fields of the axes to a value, or a list of values, that must all hold."""
    budget: BudgetConfig | None = None
    """What each cell may use up; null: `trainer.max_images`."""
    objectives: Annotated[list[ObjectiveConfig], Field(min_length=1)] = field(
        default_factory=lambda: [ObjectiveConfig(metric="val/loss_ema")]
    )
    """What the cells are compared by; the first is the main one."""
    resources: ResourcesConfig = ResourcesConfig()
    """What each cell needs to run; no part of its identity."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name in RESERVED:
            raise contradiction(f"name={self.name} is taken by the stores; take another")
        if not self.axes:
            raise contradiction("axes is empty: a study varies something")
        if self.size_axis not in self.axes:
            raise contradiction(f"size_axis={self.size_axis} is not one of the axes {sorted(self.axes)}")
        fields = [name for axis in self.axes.values() for name in axis]
        for name in fields:
            if fields.count(name) > 1:
                raise contradiction(f"axes: {name} stands in more than one axis")
        for name, axis in self.axes.items():
            lengths = {len(values) for values in axis.values()}
            if lengths in (set(), {0}) or len(lengths) > 1:
                raise contradiction(f"axes.{name}: its fields need lists of one length, of at least one value")
        for name, labels in self.labels.items():
            if name not in self.axes or len(labels) != len(self.points(name)) or len(set(labels)) < len(labels):
                raise contradiction(
                    f"labels.{name}: needs to be an axis, with a different label for each of its values"
                )
        self._check_seeds()
        self._check_exclusions()
        return self

    def _check_seeds(self) -> None:
        for where, seeds in (
            ("seeds", self.seeds),
            *((f"seeds_at_size.{k}", v) for k, v in self.seeds_at_size.items()),
        ):
            if len(set(seeds)) < len(seeds):
                raise contradiction(f"{where}={seeds} names a seed twice")
        sizes = [str(value) for value in next(iter(self.axes[self.size_axis].values()))]
        for size in self.seeds_at_size:
            if size not in sizes:
                raise contradiction(f"seeds_at_size: {size} is not one of the sizes {sizes}")

    def _check_exclusions(self) -> None:
        fields = [name for axis in self.axes.values() for name in axis]
        metrics = [objective.metric for objective in self.objectives]
        if len(set(metrics)) < len(metrics):
            raise contradiction(f"objectives: {metrics} names a metric twice")
        for rule in self.exclude:
            if not rule or set(rule) - set(fields):
                raise contradiction(f"exclude: {rule} must name fields that the axes vary, which are {fields}")

    def points(self, axis: str) -> list[tuple[Any, ...]]:
        """The values of an axis, each one value for each of its fields."""
        return list(zip(*self.axes[axis].values(), strict=True))

    def point_name(self, axis: str, values: Mapping[str, Any]) -> str:
        """What people call a value of an axis: its label, or the fields' values; words as they are, all else as JSON.

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


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PathsConfig:
    """Where results go. No part of any trial's identity."""

    runs: Annotated[str, Field(min_length=1)] = "runs"
    """Folder of all results: cells, Optuna's and MLflow's stores."""
    tracking_uri: Annotated[str, Field(pattern=r"^(sqlite:///|https?://|postgresql|mysql|mssql)")] | None = None
    """MLflow's store: a server or a database; null: `mlflow.db` in the folder of runs."""
    storage: Annotated[str, Field(pattern=r"^(sqlite:///|journal:|postgresql|mysql)")] | None = None
    """Optuna's storage: `journal:FILE`, or a database's URL; null: `optuna.db` in the folder of runs."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        path = str(Path(self.runs).absolute())
        if any(character in path for character in NOT_IN_A_PATH):
            raise contradiction(f"runs={self.runs}: the folder {path} has one of {NOT_IN_A_PATH} in its name")
        return self

    @property
    def folder(self) -> Path:
        """The folder of all results, absolute and without symbolic links."""
        return Path(self.runs).resolve()


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class TorchrunConfig:
    """For launcher=torchrun: how machines find each other. No part of any trial's identity."""

    rendezvous: str | None = None
    """HOST:PORT of the machine that leads; with several nodes every machine is given the same command."""
    wait_seconds: PositiveFloat = 50.0
    """How long machines wait for each other at the start."""
    return_seconds: PositiveFloat = 600.0
    """How long a machine that was lost may take to come back."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class SlurmConfig:
    """For launcher=slurm: what a cell's job asks for. No part of any trial's identity."""

    partition: str | None = None
    """Partition; null: the cluster's default."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features of the nodes."""
    time_minutes: PositiveInt = 1440
    """Time limit of a job. One that reaches it saves its state and is queued again."""
    warning_seconds: PositiveInt = 120
    """How long before its end a job is told: enough for a step and a checkpoint."""
    requeues: NonNegativeInt = 1000
    """How often a job may reach its time limit."""
    cpus_per_task: PositiveInt | None = None
    """Processors of a rank."""
    mem_gib: PositiveInt | None = None
    """Memory of a node."""
    setup: str | None = "studies/slurm.sh"
    """File of shell lines that make a job's environment (modules, variables), to be edited; null: none."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Other options of sbatch by their long names, as in slurm.sbatch={exclude:node7}."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class CommandConfig:
    """What the command is to do. No part of any trial's identity."""

    action: Literal["run", "plan", "work", "status", "retry", "cancel"] = "run"
    """run: every cell that is not done; plan: a table of the cells, nothing is created; work: join as one more worker;
    status: what has come of the cells; retry: queue failed and cancelled cells again; cancel: end cells."""
    workers: PositiveInt = 1
    """Processes that work on cells at once, for action=run; with launcher=slurm, jobs at once."""
    launcher: Literal["local", "torchrun", "slurm"] = "local"
    """What trains a cell: this process; a group of processes here or on several machines; a job of a cluster."""
    torchrun: TorchrunConfig = TorchrunConfig()
    """For launcher=torchrun."""
    slurm: SlurmConfig = SlurmConfig()
    """For launcher=slurm."""
    new_version: bool = False
    """Take a changed configuration of a study that exists as a new version of it, NAME-v2 and so on."""
    cells: list[str] = field(default_factory=list)
    """Cells that retry and cancel are about: first characters of their identities; none: all that it can be."""
