"""Points at which sizes are compared (equal steps, images or FLOPs), and which factors are confounded with size."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from lina_lab.config.factors import (
    BATCH,
    FACTORS,
    IMAGES,
    STEPS,
    WARMUP_SHARE,
    Audit,
    AuditedCell,
    FactorKind,
    LawKind,
    audit,
)
from lina_lab.records.runstore import TRAIN_LOSS

from ..load.cells import KEYS
from ..load.labels import as_text
from ..load.lineage import BEFORE
from ..load.runs import StudyRuns

TAIL = 0.25
"""Last share of the budget over which a loss is averaged."""


@dataclass(frozen=True, kw_only=True)
class BudgetView:
    """A comparison of sizes at an equal budget."""

    name: str
    """iso-step, iso-image or iso-FLOP."""
    points: pd.DataFrame
    """A row for each run: KEYS, `parameters`, `images`, `loss`."""
    confounders: tuple[str, ...]
    """Factors that change together with size in this view."""

    @property
    def isolates_size(self) -> bool:
        """Whether a difference between sizes can be attributed to size."""
        return not self.confounders

    @property
    def title(self) -> str:
        """What a figure of it may claim."""
        if self.isolates_size:
            return f"{self.name}: scaling with size"
        return f"{self.name}: not a scaling comparison (confounded with size: {', '.join(self.confounders)})"


def audit_runs(runs: StudyRuns) -> Audit:
    """Compare the factors of the cells that count, as `lina plan` does for the cells that are planned."""
    known = [name for name in FACTORS if name in runs.cells]
    sizes = next(iter(runs.study.axes[runs.study.size_axis].values()))
    keys = ["variant", "size", *known]
    rows = runs.cells.groupby(keys, sort=False, observed=True, dropna=False)["seed"].agg(tuple).reset_index()
    return audit(
        (
            AuditedCell(
                variant=row["variant"],
                size=str(row["size"]),
                seeds=row["seed"],
                factors={name: row[name] for name in known},
            )
            for row in rows.to_dict("records")
        ),
        [as_text(size) for size in sizes],
    )


def confounded(runs: StudyRuns) -> Mapping[LawKind, str]:
    """Return the kinds of law in which a factor is confounded with size: kind -> the factors, for a sentence."""
    return audit_runs(runs).confounded


def _training(runs: StudyRuns) -> list[str]:
    """Return the factors of training that change with size."""
    return list(audit_runs(runs).changing_of(FactorKind.TRAINING))


def iso_step(runs: StudyRuns) -> BudgetView:
    """Compare each run at the end of its own budget."""
    return BudgetView(name="iso-step", points=_points(runs, _ends(runs)), confounders=tuple(_training(runs)))


def iso_image(runs: StudyRuns) -> BudgetView:
    """Compare each run at the number of images that the shortest run has seen."""
    ends = _ends(runs)
    found = [name for name in _training(runs) if name not in (IMAGES, WARMUP_SHARE, STEPS)]
    if BATCH in found:
        # Equal images in unequal batches are unequal steps.
        found.append(STEPS)
    return BudgetView(name="iso-image", points=_points(runs, ends.clip(upper=ends.min())), confounders=tuple(found))


def iso_flop(runs: StudyRuns) -> BudgetView:
    """Compare each run at the FLOPs of the cheapest run; larger sizes have then seen fewer images."""
    ends, cells = _ends(runs), runs.cells.set_index("cell")
    each, before = cells["flops_per_image"], cells.get(BEFORE, 0.0)
    # What a cell started from is spent before its first image.
    spent = ((before + ends * each).min() - before) / each
    found = [name for name in _training(runs) if name not in (IMAGES, WARMUP_SHARE, STEPS)]
    return BudgetView(name="iso-FLOP", points=_points(runs, spent), confounders=tuple(found))


def _ends(runs: StudyRuns) -> "pd.Series[float]":
    """Return the images at the last training loss of each cell."""
    train = runs.history[runs.history["metric"] == TRAIN_LOSS]
    return train.groupby("cell")["images"].max().astype(float)


def _points(runs: StudyRuns, ends: "pd.Series[float]") -> pd.DataFrame:
    """Return the mean training loss of each cell over the last share (`TAIL`) of its images."""
    train = runs.history[runs.history["metric"] == TRAIN_LOSS]
    end = ends.reindex(train["cell"]).to_numpy(float)
    tail = train[(train["images"] > (1 - TAIL) * end) & (train["images"] <= end * (1 + 1e-9))]
    points = tail.groupby(KEYS, sort=False, as_index=False).agg(images=("images", "max"), loss=("value", "mean"))
    known = runs.cells.set_index("cell")["parameters"].astype(float)
    return points.assign(parameters=known.reindex(points["cell"]).to_numpy())
