"""Fit scaling laws to any project's runs: a table, or an MLflow store that another project wrote.

  lina fit points.csv size=COLUMN data=COLUMN loss=COLUMN [variant= seed= run= flops= budget=] out=FOLDER
  lina fit tracking_uri=URI experiment=NAME size=params.NAME data=metrics.NAME loss=metrics.NAME out=FOLDER

A row is a run, or with run=COLUMN a checkpoint of one. Fitted are L(N, D), best sizes at equal FLOPs, and the frontier
of loss over FLOPs, each with intervals over runs, or over seeds with seed=COLUMN. The folder gets a page, tables,
figures, and `fit.json` for programs.
"""

if __name__ == "__main__":
    import sys

    from lina_lab.cli import main

    raise SystemExit(main(["fit", *sys.argv[1:]]))

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS
from lina_lab.config.grammar import Command

from .load.errors import TableError
from .stats.laws import HOFFMANN_DELTA

if TYPE_CHECKING:
    from .load.tables import ForeignPoints
    from .report.foreign import ForeignReport


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class FitConfig:
    """Fields of `lina fit`."""

    table: str | None = None
    """File of the runs: .csv, .tsv or .parquet; `table=` may be left out if it comes first."""
    size: str
    """Column of the sizes N, such as parameters. A store's columns are params.NAME, metrics.NAME and tags.NAME."""
    loss: str
    """Column of the losses; a row without a finite one is left out."""
    data: str | None = None
    """Column of the amounts of data D, such as tokens; null: the law is one of size alone."""
    variant: str | None = None
    """Column of the variants, each of which is fitted by itself."""
    seed: str | None = None
    """Column of the seeds; seeds that are whole ladders become the unit of the intervals."""
    run: str | None = None
    """Column that names the run of a checkpoint; null: each row is a run. A store's runs are its own."""
    flops: str | None = None
    """Column of the training FLOPs; null: the budget, or 6 N D."""
    budget: str | None = None
    """Column of the compute budgets, in FLOPs, at which sizes were chosen; null: FLOPs that are few values, or none."""
    tracking_uri: str | None = None
    """MLflow store of another project, in place of a table."""
    experiment: str | None = None
    """The experiment of that store."""
    checkpoints: bool = False
    """Read every logged step of a store's metrics, in place of their last values."""
    drop: Annotated[int, Field(ge=0)] = 0
    """Number of the highest losses of each variant that are left out."""
    huber: Annotated[float, Field(gt=0)] | Literal["auto"] = HOFFMANN_DELTA
    """Log residuals above this count linearly; auto: 1.345 standard deviations of the noise."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Confidence level of the intervals."""
    out: str = "reports/fit"
    """Folder of the report."""

    def __post_init__(self) -> None:
        if (self.table is None) == (self.tracking_uri is None):
            raise ValueError("name one source: a table (lina fit points.csv ...), or tracking_uri=URI")
        if (self.tracking_uri is None) != (self.experiment is None):
            raise ValueError("tracking_uri=URI and experiment=NAME go together")
        if self.checkpoints and self.tracking_uri is None:
            raise ValueError("checkpoints=true is for a store; a table names the run of each row with run=COLUMN")
        if self.tracking_uri is not None and self.run is not None:
            raise ValueError("a store's runs are its own: leave run=COLUMN out")


def read_points(config: FitConfig) -> "ForeignPoints":
    """Read and check the points.

    Raises:
        TableError: see `load.tables.points_of` and `load.foreign_store.read_store`.
    """
    from .load.foreign_store import RUN, read_store
    from .load.tables import Roles, points_of, read_table

    names = ("size", "loss", "data", "variant", "seed", "flops", "run", "budget")
    roles = Roles(**{name: getattr(config, name) for name in names})
    if config.table is not None:
        return points_of(read_table(Path(config.table)), roles, config.table, config.drop)
    assert config.tracking_uri is not None
    assert config.experiment is not None
    columns = list(roles.named.values())
    table, notes = read_store(config.tracking_uri, config.experiment, columns, checkpoints=config.checkpoints)
    roles = Roles(**roles.named, run=RUN)
    return points_of(table, roles, f"{config.tracking_uri}, {config.experiment}", config.drop, notes)


def fit_points(config: FitConfig) -> "ForeignReport":
    """Read the points and fit everything to them.

    Raises:
        TableError: the source cannot be analyzed.
    """
    from .report.foreign import ForeignReport
    from .stats.foreign import fit_variants

    points = read_points(config)
    huber = None if config.huber == "auto" else config.huber
    return ForeignReport(
        table=points, level=config.level, variants=fit_variants(points, huber=huber, level=config.level)
    )


def run(config: FitConfig) -> int:
    """Fit, write the report and print its files; returns 0.

    Raises:
        TableError: the source cannot be analyzed.
        ValueError: the folder cannot be written.
    """
    from .report.foreign import write_foreign_report

    report = fit_points(config)
    try:
        files = write_foreign_report(report, Path(config.out))
    except OSError as error:
        raise ValueError(f"cannot write {error.filename} ({error.strerror}): choose another out=FOLDER") from error
    for file in files:
        print(file)
    return 0


COMMAND = Command(config=FitConfig, run=run, doc=__doc__, errors=(TableError, ValueError), positional="table")
