"""The configuration of a study, of where its results go, and of the command that runs it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, Checked, NonNegativeInt, OneOf, PositiveFloat, PositiveInt
from lina_lab.config.metrics import METRICS

RESERVED = ("mlartifacts", "Default")
"""Names that the stores use for themselves."""
SETUP = "studies/slurm.sh"
"""Shell lines of a job, in the working directory and in the package."""
NOT_IN_A_PATH = "%?#"
"""Characters that a database's address cannot hold."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class ObjectiveConfig(Checked):
    """A metric at the end of training, by which cells are compared."""

    metric: Annotated[str, OneOf(METRICS)]
    """Name of the metric."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Which way is better: maximize for eval/captions, minimize for the other built-in metrics."""

    def _problems(self) -> Iterator[str]:
        better = METRICS[self.metric].direction
        if self.direction != better:
            yield f"metric={self.metric} needs direction={better}"


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class BudgetConfig:
    """The training budget of a cell, equal for all cells; it is converted to images."""

    unit: Literal["images", "tokens", "flops"]
    """images seen; image tokens seen; training FLOPs (two for each multiply-add, see `lina count`)."""
    amount: PositiveFloat
    """The budget in this unit."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class ResourcesConfig:
    """The hardware and the process group that train a cell."""

    nodes: PositiveInt = 1
    """Machines."""
    devices: PositiveInt = 1
    """Devices of each machine, with one process each: GPUs, or parts of the CPU where there are none."""
    accelerator: Literal["auto", "gpu", "cpu"] = "auto"
    """gpu: refuse a machine without GPUs; auto: use GPUs where there are any, otherwise the CPU."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How several devices train one model: ddp copies the model to each, fsdp shards it over them."""
    accumulate_grad_batches: PositiveInt = 1
    """Gradient accumulation: micro-batches of each device in one optimizer step. The global batch stays
    data.batch_size."""
    timeout_seconds: PositiveFloat = 300.0
    """Seconds that a device waits for another one before the process group counts as broken."""
    max_minutes: PositiveFloat | None = None
    """Longest training time of a cell, over all its attempts; a cell that takes longer saves a checkpoint and is
    cancelled. null: no limit."""
    max_restarts: NonNegativeInt = 3
    """How often a cell whose process group died is restarted, each time from its last checkpoint."""
    flops_per_second: PositiveFloat | None = None
    """Training FLOP/s of a device, for `lina plan`; null: as measured on the study's finished cells."""

    @property
    def world_size(self) -> int:
        """Processes that train one model together."""
        return self.nodes * self.devices

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch that does not divide evenly over devices and accumulation steps.

        Raises:
            ValueError: the numbers that do not fit.
        """
        shares = self.world_size * self.accumulate_grad_batches
        if batch_size % shares:
            raise ValueError(
                f"data.batch_size={batch_size} cannot be divided evenly: study.resources has nodes={self.nodes} "
                f"x devices={self.devices} x accumulate_grad_batches={self.accumulate_grad_batches} = {shares} "
                "micro-batches"
            )


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class StudyConfig(Checked):
    """One question: what is varied, with which seeds, and what is controlled."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]
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
    controlled: list[str]
    """What is the same for all cells, as sentences for a reviewer."""
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
    resources: ResourcesConfig = ResourcesConfig()
    """Hardware of each cell; not part of its config hash."""

    def _problems(self) -> Iterator[str]:
        if self.name in RESERVED:
            yield f"name={self.name} is taken by the stores; take another"
        if not self.axes:
            yield "axes is empty: a study varies something"
        if self.size_axis not in self.axes:
            yield f"size_axis={self.size_axis} is not one of the axes {sorted(self.axes)}"
        fields = [name for axis in self.axes.values() for name in axis]
        for name in fields:
            if fields.count(name) > 1:
                yield f"axes: {name} is in more than one axis"
        for name, axis in self.axes.items():
            lengths = {len(values) for values in axis.values()}
            if lengths in (set(), {0}) or len(lengths) > 1:
                yield f"axes.{name}: its fields need lists of one length, of at least one value"
        for name, labels in self.labels.items():
            if name not in self.axes or len(labels) != len(self.points(name)) or len(set(labels)) < len(labels):
                yield f"labels.{name}: needs to be an axis, with a different label for each of its values"
        yield from self._problems_of_seeds()
        yield from self._problems_of_exclusions()

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


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PathsConfig(Checked):
    """Where results go. Not part of any trial's config hash."""

    runs: Annotated[str, Field(min_length=1)] = "runs"
    """Folder of all results: cells, Optuna's and MLflow's stores."""
    tracking_uri: Annotated[str, Field(pattern=r"^(sqlite:///|https?://|postgresql|mysql|mssql)")] | None = None
    """MLflow's store: a server or a database; null: `mlflow.db` in the folder of runs."""
    storage: Annotated[str, Field(pattern=r"^(sqlite:///|journal:|postgresql|mysql)")] | None = None
    """Optuna's storage: `journal:FILE`, or a database's URL; null: `optuna.db` in the folder of runs."""

    def _problems(self) -> Iterator[str]:
        path = str(Path(self.runs).absolute())
        if any(character in path for character in NOT_IN_A_PATH):
            yield f"runs={self.runs}: the folder {path} has one of {NOT_IN_A_PATH} in its name"

    @property
    def folder(self) -> Path:
        """The folder of all results, absolute and without symbolic links."""
        return Path(self.runs).resolve()


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class TorchrunConfig:
    """For launcher=torchrun: how machines find each other. Not part of any trial's config hash."""

    rendezvous: str | None = None
    """HOST:PORT of the leading machine; with several nodes, the same command is started on every machine."""
    wait_seconds: PositiveFloat = 50.0
    """Seconds that machines wait for each other at the start."""
    return_seconds: PositiveFloat = 600.0
    """Seconds that a lost machine may take to come back."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class SlurmConfig:
    """For launcher=slurm: what a cell's job requests. Not part of any trial's config hash."""

    partition: str | None = None
    """Partition; null: the cluster's default."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Required features of the nodes."""
    time_minutes: PositiveInt = 1440
    """Time limit of a job. A job that reaches it saves a checkpoint and is requeued."""
    warning_seconds: PositiveInt = 120
    """Seconds before the time limit at which the job is signaled: enough for a step and a checkpoint."""
    requeues: NonNegativeInt = 1000
    """How often a job may be requeued at its time limit."""
    cpus_per_task: PositiveInt | None = None
    """CPUs of each rank."""
    mem_gib: PositiveInt | None = None
    """Memory of a node."""
    setup: str | None = SETUP
    """File of shell lines that make a job's environment (modules, variables), in the working directory; null: none. The
    default is replaced by the packaged file of that name where the working directory has none; copy it to edit it."""
    sbatch: dict[str, Any] = field(default_factory=dict)
    """Other options of sbatch by their long names, as in slurm.sbatch={exclude:node7}."""

    @property
    def setup_file(self) -> Path | None:
        """The file of `setup`."""
        if self.setup is None:
            return None
        path = Path(self.setup)
        return Path(str(files("lina_lab.studies"))) / path.name if self.setup == SETUP and not path.exists() else path


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class CommandConfig:
    """What the command does. Not part of any trial's config hash."""

    action: Literal["run", "plan", "work", "status", "retry", "cancel"] = "run"
    """run: every cell that is not done; plan: a table of the cells, nothing is created; work: join as one more worker;
    status: the state of the cells; retry: queue failed and cancelled cells again; cancel: end cells."""
    workers: PositiveInt = 1
    """For action=run: processes that work on cells at the same time; with launcher=slurm, jobs at the same time."""
    launcher: Literal["local", "torchrun", "slurm"] = "local"
    """What trains a cell. local: this process; torchrun: a process group here or on several machines; slurm: a job of
    a cluster."""
    torchrun: TorchrunConfig = TorchrunConfig()
    """For launcher=torchrun."""
    slurm: SlurmConfig = SlurmConfig()
    """For launcher=slurm."""
    new_version: bool = False
    """Start a new version of the study, NAME-v2 and so on, if its configuration has changed."""
    cells: list[str] = field(default_factory=list)
    """For retry and cancel: the first characters of the cells' config hashes; empty: all cells it applies to."""
