"""The configuration of a study, and of where results go."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, NonNegativeInt, contradiction

RESERVED = ("mlartifacts", "Default")
"""Names that the stores use for themselves."""
NOT_IN_A_PATH = "%?#"
"""Characters that a database's address cannot hold."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class StudyConfig:
    """One question: what is varied, how often, and what is held equal."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]
    """Name of the study in every store and of its folder; another name makes a study of its own."""
    question: str
    """What the study is to find out."""
    axes: dict[str, dict[str, list[Any]]]
    """Axis name -> field -> its values; the fields of one axis move together, the axes are crossed."""
    size_axis: str
    """The axis along which models grow; the others make the variants that are compared."""
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    """Seeds of each cell; two variants with one seed see the same data, masks and noise."""
    held_equal: list[str]
    """What is the same for all cells, as a reviewer would want to read it."""
    objective: Literal["val/loss_ema", "val/loss_raw", "train/loss"] = "val/loss_ema"
    """Metric that the cells are compared by; smaller is better."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name in RESERVED:
            raise contradiction(f"name={self.name} is taken by the stores; take another")
        if not self.axes:
            raise contradiction("axes is empty: a study varies something")
        if self.size_axis not in self.axes:
            raise contradiction(f"size_axis={self.size_axis} is not one of the axes {sorted(self.axes)}")
        fields = [field for axis in self.axes.values() for field in axis]
        for field in fields:
            if fields.count(field) > 1:
                raise contradiction(f"axes: {field} stands in more than one axis")
        for name, axis in self.axes.items():
            lengths = {len(values) for values in axis.values()}
            if lengths in (set(), {0}) or len(lengths) > 1:
                raise contradiction(f"axes.{name}: its fields need lists of one length, of at least one value")
        if len(set(self.seeds)) < len(self.seeds):
            raise contradiction(f"seeds={self.seeds} names a seed twice")
        return self


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PathsConfig:
    """Where results go. No part of any trial's identity."""

    runs: Annotated[str, Field(min_length=1)] = "runs"
    """Folder of all results: cells, Optuna's and MLflow's stores."""
    tracking_uri: Annotated[str, Field(pattern=r"^(sqlite:///|https?://|postgresql|mysql|mssql)")] | None = None
    """MLflow's store: a server or a database; null: `mlflow.db` in the folder of runs."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        path = str(Path(self.runs).absolute())
        if any(character in path for character in NOT_IN_A_PATH):
            raise contradiction(f"runs={self.runs}: the folder {path} has one of {NOT_IN_A_PATH} in its name")
        return self
