"""A plan, and where its results go."""

from dataclasses import dataclass, replace
from pathlib import Path

from lina_lab.config import PathsConfig
from lina_lab.launch.contract import LaunchContext
from lina_lab.study.grid import Cell, Plan


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A plan and its paths."""

    plan: Plan
    runs: Path
    """Folder of all results, absolute."""
    storage: str | None
    """Optuna's storage; None: a SQLite file in `runs`."""
    tracking_uri: str | None
    """MLflow's store; None: a SQLite file in `runs`."""

    @classmethod
    def of(cls, plan: Plan, paths: PathsConfig) -> "Workspace":
        """The workspace that a configuration names."""
        return cls(plan=plan, runs=paths.folder, storage=paths.storage, tracking_uri=paths.tracking_uri)

    @property
    def tracking_file(self) -> Path:
        """MLflow's file, unless its store is elsewhere."""
        return self.runs / "mlflow.db"

    @property
    def tracking_address(self) -> str:
        """MLflow's address of its store."""
        return self.tracking_uri or f"sqlite:///{self.tracking_file}"

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.runs / self.plan.study.name

    def cell_folder(self, cell: Cell) -> Path:
        """The folder of one cell."""
        return self.folder / cell.config_hash

    def named(self, study: str) -> "Workspace":
        """The same under another name of the study."""
        return replace(self, plan=replace(self.plan, study=replace(self.plan.study, name=study)))

    def launch_context(self) -> LaunchContext:
        """What launching needs to know of the study."""
        return LaunchContext(
            study=self.plan.study.name,
            resources=self.plan.study.resources,
            folder=self.folder,
            cells=f"{len(self.plan.cells)} ({self.plan.digest()})",
            data_workers=self.data_workers,
        )

    @property
    def data_workers(self) -> int:
        """The largest `data.workers` of the cells."""
        return max((cell.config.data.workers for cell in self.plan.cells), default=0)
