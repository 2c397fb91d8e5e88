"""The paper's tables of training losses and sample quality: published numbers next to those of our studies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lina_lab.config import LinaConfig, from_dict
from lina_lab.config.presets import SIZES
from lina_lab.records.runstore import EVALUATION, TRAIN_LOSS

from ..load.cells import IMAGE_KIND, KEYS, image_kind
from ..load.errors import StoreError
from ..load.kinds import of_generation
from ..load.published import FID, FIELDS, parameters, published_metrics, read_published
from ..load.runs import StudyRuns
from .metric_names import metric_name
from .tables import records

QUALITY = ("fid", "inception_score", "sfid", "precision", "recall")
LOSS_PUBLISHED, LOSS_OURS = "training loss, published", "loss, ours"
FID_PUBLISHED, FID_OURS = "FID, published", "FID, ours"
NORMALIZATION, CONV, GATE = FIELDS.values()
ReadStudy = Callable[[str], StudyRuns]
"""Reads a study by its name; raises StoreError if it cannot be read."""
Label = Callable[[dict[str, Any]], str | None]
"""Fields of a cell -> its row in a table; None: not in the table."""
PUBLISHED_NOTE = (
    "published: one seed; loss of one rank over iterations 150,000 to 200,000; FID at 200,000, without guidance. Batch "
    "and images seen fall with width, so the sizes are not a scaling comparison."
)
AT_PAPER_SCALE = "_paper"
"""What `scale=paper` adds to the name of a study."""
PUBLISHED_KIND = image_kind(from_dict(LinaConfig, SIZES["width768"]))
"""The images of the published runs: latents of ImageNet at 256 pixels."""


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One of the paper's tables."""

    name: str
    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...]
    """What is missing and why, and what else a reader must know."""


def scaling_label(row: dict[str, Any]) -> str | None:
    """Return the row of a cell in the table of normalization, convolution and size."""
    if row.get(GATE, "none") != "none":
        return None
    return f"{row[NORMALIZATION]}{'' if row[CONV] == 'none' else ' + convolution'}"


def gate_label(row: dict[str, Any]) -> str | None:
    """Return the row of a cell in the table of gates."""
    if row.get(NORMALIZATION, "division") != "division":
        return None
    bare = row.get(CONV, "depthwise") == "none"
    if bare and row[GATE] == "none":
        return None
    return f"{row[GATE]}{', no convolution' if bare else ''}"


def locality_label(row: dict[str, Any]) -> str | None:
    """Return the row of a cell in the table of convolutions."""
    if row.get(GATE, "none") != "none" or row.get(NORMALIZATION, "division") != "division":
        return None
    kernel = row.get("model.attention.conv_kernel", "5")
    return f"depthwise {kernel}" if row[CONV].startswith("depthwise") else str(row[CONV])


def placement_label(row: dict[str, Any]) -> str | None:
    """Return the row of a cell in the table of softmax in some blocks."""
    return row.get("variant")


def at_paper_scale(study: str, read: ReadStudy) -> str:
    """Return the study that can stand beside published numbers: itself, or what `scale=paper` made of it.

    If neither can, the study itself is returned; its tables say why they lack it.
    """
    for name in (study, f"{study}{AT_PAPER_SCALE}"):
        try:
            _read_comparable(name, read)
        except StoreError:
            continue
        return name
    return study


def _read_comparable(study: str, read: ReadStudy) -> StudyRuns:
    """Read a study whose losses can stand beside the published ones.

    Raises:
        StoreError: it cannot be read, it was not trained to generate, or it learned other images.
    """
    found = of_generation(read(study))
    others = sorted(set(found.cells[IMAGE_KIND]) - {PUBLISHED_KIND})
    if others:
        raise StoreError(
            f"the study {study} learned images of {' and of '.join(others)}, and the published runs {PUBLISHED_KIND}: "
            f"such losses do not compare (its own report is lina plots study={study}; scale=paper runs the paper's "
            "sizes and images)"
        )
    return found


def studied_table(name: str, title: str, study: str, read: ReadStudy, label: Label) -> PaperTable:
    """Make the table of one of our studies and of the published runs on the same question."""
    published, (ours, notes) = _published_cells(label), _our_cells(study, read, label)
    frame = published.merge(ours, on=["variant", "size"], how="outer", sort=False)
    order = {variant: index for index, variant in enumerate(dict.fromkeys([*published["variant"], *ours["variant"]]))}
    frame = frame.sort_values(["size", "variant"], key=lambda c: c.map(order) if c.name == "variant" else c)
    missing = int(published[FID_PUBLISHED].isna().sum())
    if published.empty:
        notes = (*notes, "published: the available data has no such runs.")
    elif missing:
        notes = (*notes, f"{FID_PUBLISHED}: not available for {missing} of the {len(published)} cells.")
    # Rows without a study of ours would make the numbers of seeds floats.
    frame = frame.reset_index(drop=True).astype({"seeds": "Int64"})
    return PaperTable(name=name, title=title, frame=frame, notes=(*notes, PUBLISHED_NOTE))


def _published_cells(label: Label) -> pd.DataFrame:
    found = read_published()
    cells = found.cells.sort_values("variant", key=lambda names: names.map(found.variants.index), kind="stable")
    labels = [label(row) or "" for row in records(cells.drop(columns=KEYS))]
    shown = {TRAIN_LOSS: LOSS_PUBLISHED, FID: FID_PUBLISHED, "parameters, M": "parameters, M, published"}
    cells = cells.assign(variant=labels, **{"parameters, M": cells["parameters"] / 1e6})
    columns = ["variant", "size", TRAIN_LOSS, FID, "parameters, M"]
    return cells.loc[cells["variant"] != "", columns].rename(columns=shown).reset_index(drop=True)


def _our_cells(study: str, read: ReadStudy, label: Label) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return mean and standard deviation over seeds for each row of the table, and notes on what is missing."""
    fid = f"{EVALUATION}fid"
    columns = ["variant", "size", LOSS_OURS, "SD", "seeds", FID_OURS]
    try:
        found = _read_comparable(study, read)
    except StoreError as error:
        return pd.DataFrame(columns=columns), (f"ours: none, because {error}.",)
    cells, objective = found.cells, found.study.objective
    cells = cells.assign(variant=[label(row) or "" for row in records(cells)])
    cells = cells[cells["variant"] != ""]
    groups = cells.assign(**{fid: cells.get(fid, float("nan"))}).groupby(["variant", "size"], sort=False)
    means = {LOSS_OURS: (objective, "mean"), "SD": (objective, "std"), "seeds": ("seed", "nunique")}
    frame = groups.agg(**means, **{FID_OURS: (fid, "mean")})
    notes = [f"ours: {metric_name(objective)} of the study {study}, mean and standard deviation over seeds."]
    if fid not in cells:
        notes.append(f"{FID_OURS}: no run of the study {study} has {fid}.")
    if len(found.excluded):
        notes.append(f"ours: {len(found.excluded)} runs of the study {study} are excluded; its report says why.")
    return frame.reset_index(), tuple(notes)


def metrics_with(**values: object) -> pd.DataFrame:
    """Return the published numbers whose columns have the given values."""
    metrics = published_metrics()
    for name, value in values.items():
        metrics = metrics[metrics[name] == value]
    return metrics


def quality_table(study: str, read: ReadStudy) -> PaperTable:
    """Make the table of sample quality of class-conditional models."""
    metrics = published_metrics()
    metrics = metrics[metrics["metric"].isin(QUALITY)]
    setting = ["model", "normalization", "conv", "gate", "width", "iteration", "guidance_scale"]
    wide = metrics.pivot_table(index=setting, columns="metric", values="value", sort=False).reset_index()
    wide = wide.astype({"iteration": "Int64"})
    known = parameters()
    size = [known[(int(row["width"]), row["conv"] != "none")] / 1e6 for row in wide.to_dict("records")]
    frame = wide.assign(source="published", **{"parameters, M": size})
    ours, notes = _our_quality(study, read)
    columns = ["source", *setting, *QUALITY, "parameters, M"]
    frame = pd.concat([frame, ours]).reindex(columns=columns)
    kept = "published: ImageNet 256 px, ADM's evaluation, 50,000 samples; empty cells are not in the available data."
    title = "Class-conditional generation"
    return PaperTable(name="class_conditional", title=title, frame=frame, notes=(*notes, kept))


def _our_quality(study: str, read: ReadStudy) -> tuple[pd.DataFrame, tuple[str, ...]]:
    try:
        found = _read_comparable(study, read)
    except StoreError as error:
        return pd.DataFrame(), (f"ours: none, because {error}.",)
    measured = {name: f"{EVALUATION}{name}" for name in QUALITY if f"{EVALUATION}{name}" in found.cells}
    if not measured:
        return pd.DataFrame(), (f"ours: no run of the study {study} has metrics of generated images.",)
    groups = found.cells.groupby(["variant", "size"], sort=False)
    frame = groups[list(measured.values())].mean().rename(columns={v: k for k, v in measured.items()}).reset_index()
    size = groups["parameters"].first().to_numpy(float) / 1e6
    frame = frame.rename(columns={"variant": "model", "size": "width"}).assign(source="ours", **{"parameters, M": size})
    return frame, (f"ours: the study {study}, mean over seeds.",)
