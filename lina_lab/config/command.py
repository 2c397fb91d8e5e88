"""Where a study's results go, and the configuration of the command that runs it."""

import re
from collections.abc import Iterator
from dataclasses import field
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from lina_lab.config.alerts import AlertsConfig
from lina_lab.config.checks import (
    CHECKS,
    FROM_LIST,
    Checked,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    matching,
)

SETUP = "studies/slurm.sh"
"""Shell lines of a job, in the working directory and in the package."""
NOT_IN_A_PATH = "%?#"
"""Characters that a database's address cannot hold."""
TRACKING = matching(
    r"(sqlite:///|https?://|postgresql|mysql|mssql).*",
    "http://HOST:PORT of an MLflow server, sqlite:///FILE, or the URL of a PostgreSQL, MySQL or MSSQL database",
)
STORAGE = matching(
    r"(sqlite:///|journal:|postgresql|mysql).*",
    "sqlite:///FILE, journal:FILE, or the URL of a PostgreSQL or MySQL database",
)


def _option(value: object) -> object:
    # A number of a YAML file is text to sbatch; on the command line, it is the text that was typed.
    if isinstance(value, list | dict):
        raise PydanticCustomError("option", "Input should be text, true, false or null")
    return str(value) if type(value) in (int, float) else value


Option = Annotated[str | bool | None, BeforeValidator(_option)]


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PathsConfig(Checked):
    """Where results go. Not part of any trial's config hash."""

    runs: Annotated[str, Field(min_length=1)] = "runs"
    """Folder of all results: cells, Optuna's and MLflow's stores."""
    tracking_uri: Annotated[str, TRACKING] | None = None
    """MLflow's store: a server or a database; null: `mlflow.db` in the folder of runs."""
    storage: Annotated[str, STORAGE] | None = None
    """Optuna's storage: `journal:FILE`, or a database's URL; null: `optuna.db` in the folder of runs."""

    def _problems(self) -> Iterator[str]:
        path = str(Path(self.runs).absolute())
        if not path.isprintable():
            yield f"runs={self.runs!r}: the folder has a control character in its name"
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
class SlurmConfig(Checked):
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
    """CPUs of each rank; null: one for it and one for each of its data loaders (data.workers), or what slurm.sbatch
    says."""
    mem_gib: PositiveInt | None = None
    """Memory of a node."""
    setup: str | None = SETUP
    """File of shell lines that make a job's environment (modules, variables), in the working directory; null: none. The
    default is replaced by the packaged file of that name where the working directory has none; copy it to edit it."""
    sbatch: dict[str, Option] = field(default_factory=dict)
    """Other options of sbatch by their long names, as in slurm.sbatch={exclude:node7}."""
    srun_args: Annotated[tuple[str, ...], FROM_LIST] = ()
    """Options of srun, which starts the ranks, as they would be typed: such as
    slurm.srun_args=['--container-image=lab.sqsh','--container-mounts=/data:/data','--cpu-bind=cores']."""
    python: str | None = None
    """Shell command that starts Python in the job, for a container, such as 'apptainer exec --nv lab.sif python'; null:
    the Python that submits."""

    def _problems(self) -> Iterator[str]:
        texts = {name: getattr(self, name) for name in ("partition", "account", "qos", "constraint", "python")}
        for name, value in [*texts.items(), *((f"sbatch.{name}", value) for name, value in self.sbatch.items())]:
            # A line break would end the option, and the rest would be a line of the batch file.
            if not f"{name}{value}".isprintable():
                yield f"{name!r}={value!r} has a control character"
        for name in self.sbatch:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
                yield f"sbatch: {name!r} is not the long name of an option of sbatch"
        for option in self.srun_args:
            if not (option.isprintable() and option.startswith("-")):
                yield f"srun_args: {option!r} is no option of srun, such as --cpu-bind=cores"

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

    action: Literal["run", "plan", "work", "status", "retry", "cancel", "prune"] = "run"
    """run: every cell that is not done; plan: a table of the cells, nothing is created; work: join as one more worker;
    status: the state of the cells; retry: queue failed and cancelled cells again; cancel: end cells; prune: delete the
    checkpoints that `checkpoint` does not keep."""
    workers: PositiveInt | None = 1
    """For action=run: processes that work on cells at the same time; with launcher=slurm, jobs at the same time. null:
    as many as this machine has processors for, or GPUs where there are any; one with another launcher."""
    launcher: Literal["local", "torchrun", "slurm"] = "local"
    """What trains a cell. local: this process; torchrun: a process group here or on several machines; slurm: a job of
    a cluster."""
    torchrun: TorchrunConfig = TorchrunConfig()
    """For launcher=torchrun."""
    slurm: SlurmConfig = SlurmConfig()
    """For launcher=slurm."""
    max_minutes: PositiveFloat | None = None
    """For run and work: how long this command may take. Then it stops as on SIGTERM: running cells save their state,
    and the same command goes on. null: no limit."""
    alerts: AlertsConfig = AlertsConfig()
    """A command of one's own that is run when cells or the study end."""
    new_version: bool = False
    """Start a new version of the study, NAME-v2 and so on, if its configuration has changed."""
    other_code: bool = False
    """Go on with a study although this code or these packages are not those that it was trained with so far."""
    cells: list[str] = field(default_factory=list)
    """For retry, cancel and prune: the first characters of the cells' config hashes; empty: all cells it applies to."""
