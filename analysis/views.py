"""Points to compare sizes by, and what stands in the way: which factors moved together with size."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.runs import KEYS, StudyRuns
from lina_lab.runstore import TRAIN_LOSS

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
    """iso-step or iso-image"""
    points: pd.DataFrame
    """A row for each run: KEYS, `parameters`, `images`, `loss`, `blocks` (means that the loss is the mean of)."""
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
    return View(name="iso-step", points=_points(runs, None), confounded=tuple(audit(runs)))


def iso_image(runs: StudyRuns) -> View:
    """Each run where it has seen as many images as the run that saw fewest."""
    images = int(runs.history.groupby("cell")["images"].max().min())
    found = [name for name in audit(runs) if name != NAMES["images_seen"]]
    if NAMES["batch_size"] in found and NAMES["steps"] not in found:
        # Equal images of unequal batches.
        found.append(NAMES["steps"])
    return View(name="iso-image", points=_points(runs, images), confounded=tuple(found))


def _points(runs: StudyRuns, images: int | None) -> pd.DataFrame:
    train = runs.history[runs.history["metric"] == TRAIN_LOSS]
    known = dict(zip(runs.cells["cell"], runs.cells["parameters"], strict=True))
    rows: list[dict[str, Any]] = []
    for keys, group in train.groupby(KEYS, sort=False):
        end = group["images"].max() if images is None else images
        tail = group[(group["images"] > (1 - TAIL) * end) & (group["images"] <= end)]
        named = dict(zip(KEYS, keys, strict=True))
        losses = tail["value"].to_numpy(float)
        rows.append(
            {
                **named,
                "parameters": float(known[named["cell"]]),
                "images": int(tail["images"].max()),
                "loss": float(losses.mean()),
                "blocks": losses,
            }
        )
    return pd.DataFrame(rows)
