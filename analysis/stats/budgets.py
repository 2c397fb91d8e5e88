"""Points to compare sizes by, and what stands in the way: which factors moved together with size."""

from dataclasses import dataclass

import pandas as pd

from lina_lab.records.runstore import TRAIN_LOSS

from ..load.cells import KEYS
from ..load.runs import StudyRuns

TAIL = 0.25
"""Share of a view's budget that a loss is averaged over."""
NAMES = {
    "batch_size": "batch size",
    "steps": "optimizer steps",
    "images_seen": "images seen",
    "lr": "learning rate",
    "warmup_images": "images of warm-up",
}
"""What a reader takes for equal across sizes: column of the cells -> its name."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A comparison of sizes at something equal."""

    name: str
    """iso-step, iso-image or iso-FLOP"""
    points: pd.DataFrame
    """A row for each run: KEYS, `parameters`, `images`, `loss`."""
    confounded: tuple[str, ...]
    """Factors that moved together with size in this view."""

    @property
    def about_scaling(self) -> bool:
        """Whether a difference between sizes may be laid to size."""
        return not self.confounded

    @property
    def title(self) -> str:
        """What a figure of it may be called."""
        if self.about_scaling:
            return f"{self.name}: scaling with size"
        return f"{self.name}: sizes side by side, not scaling ({', '.join(self.confounded)} moved with size)"


def audit(runs: StudyRuns) -> dict[str, str]:
    """Factor -> its values by size, for each that is not the same at all sizes of a variant."""
    found: dict[str, str] = {}
    for column, name in NAMES.items():
        if column not in runs.cells:
            continue
        groups = [group.groupby("size")[column].first() for _, group in runs.cells.groupby("variant", sort=False)]
        moved = [by_size for by_size in groups if by_size.nunique() > 1]
        if moved:
            # The variant with most sizes shows it best.
            by_size = max(moved, key=len)
            found[name] = ", ".join(f"{value:,} at {size}" for size, value in by_size.items())
    return found


def iso_step(runs: StudyRuns) -> View:
    """Each run at the end of its own budget."""
    return View(name="iso-step", points=_points(runs, _ends(runs)), confounded=tuple(audit(runs)))


def iso_image(runs: StudyRuns) -> View:
    """Each run where it has seen as many images as the run that saw fewest."""
    ends = _ends(runs)
    found = [name for name in audit(runs) if name != NAMES["images_seen"]]
    if NAMES["batch_size"] in found and NAMES["steps"] not in found:
        # Equal images of unequal batches.
        found.append(NAMES["steps"])
    return View(name="iso-image", points=_points(runs, ends.clip(upper=ends.min())), confounded=tuple(found))


def iso_flop(runs: StudyRuns) -> View:
    """Each run where it has used the FLOPs of the run that used fewest; images then fall with size, as they must."""
    ends, each = _ends(runs), runs.cells.set_index("cell")["flops_per_image"]
    spent = (ends * each).min() / each
    found = [name for name in audit(runs) if name not in (NAMES["images_seen"], NAMES["steps"])]
    return View(name="iso-FLOP", points=_points(runs, spent), confounded=tuple(found))


def _ends(runs: StudyRuns) -> "pd.Series[float]":
    """Cell -> the images at which its last training loss stands."""
    train = runs.history[runs.history["metric"] == TRAIN_LOSS]
    return train.groupby("cell")["images"].max().astype(float)


def _points(runs: StudyRuns, ends: "pd.Series[float]") -> pd.DataFrame:
    """The mean training loss of each cell over the last part of the images up to its end."""
    train = runs.history[runs.history["metric"] == TRAIN_LOSS]
    end = ends.reindex(train["cell"]).to_numpy(float)
    tail = train[(train["images"] > (1 - TAIL) * end) & (train["images"] <= end * (1 + 1e-9))]
    points = tail.groupby(KEYS, sort=False, as_index=False).agg(images=("images", "max"), loss=("value", "mean"))
    known = runs.cells.set_index("cell")["parameters"].astype(float)
    return points.assign(parameters=known.reindex(points["cell"]).to_numpy())
