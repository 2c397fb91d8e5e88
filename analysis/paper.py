"""Write the paper's tables, ours next to theirs.

  lina paper [runs=FOLDER] [geneval=FILE] [out=FOLDER]

Theirs are read from `analysis/published`, ours from the run store, from a GenEval file and from the model's own counts.
An empty cell shows a dash, and the notes of the table say what is missing and why.
"""

if __name__ == "__main__":
    import sys

    from lina_lab.cli import main

    raise SystemExit(main(["paper", *sys.argv[1:]]))

from collections.abc import Callable
from dataclasses import dataclass as plain
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic.dataclasses import dataclass
from yaml import YAMLError

from lina_lab.config import CHECKS, AttentionConfig, LinaConfig, from_dict
from lina_lab.config.grammar import Command
from lina_lab.config.presets import SIZES
from lina_lab.model import count
from lina_lab.records.runstore import EVALUATION, TRAIN_LOSS

from .geneval import OVERALL, TASKS, read_results, scores
from .load.cells import KEYS
from .load.errors import StoreError
from .load.published import parameters, published_metrics, read_published
from .load.runs import read_study
from .report.page import Section, versions, write_report
from .report.tables import records, write_table

WIDTHS = (768, 1024, 1536)
HEADLINE = {"latent_channels": 4, "latent_size": [128, 128], "patch_size": 2, "num_classes": None}
"""The shape behind the published operations of one attention: 4,096 + 1,024 tokens."""
QUALITY = ("fid", "inception_score", "sfid", "precision", "recall")
THEIRS_LOSS, OURS_LOSS = "training loss, theirs", "loss, ours"
NORMALIZATION, CONV, GATE = (f"model.attention.{name}" for name in ("normalization", "conv", "gate"))
Label = Callable[[dict[str, Any]], str | None]
"""Fields of a cell -> its row in a table; None: it is in none."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class PaperConfig:
    """Fields of `lina paper`."""

    runs: str = "runs"
    """Folder of the runs."""
    tracking_uri: str | None = None
    """MLflow's store; null: `mlflow.db` in the folder of runs."""
    scaling: str = "normalization_scaling"
    """Our study of normalisation, convolution and size."""
    gates: str = "kv_gate"
    """Our study of gates."""
    locality: str = "locality"
    """Our study of convolutions."""
    placement: str = "placement"
    """Our study of softmax in some blocks."""
    quality: str = "normalization_scaling"
    """Our study whose generated images stand beside theirs."""
    geneval: str | None = None
    """Results of the official GenEval tool (results.jsonl), for ours; null: none."""
    out: str = "reports"
    """Folder of the reports; the tables come into `paper` in it."""


@plain(frozen=True, kw_only=True)
class PaperTable:
    """One of the paper's tables."""

    name: str
    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...]
    """What is empty, and why; what else a reader must know."""


def tables(config: PaperConfig) -> list[PaperTable]:
    """All of them.

    Raises:
        ResultsError: the GenEval file is damaged or not whole.
    """
    studied = [
        _studied(config, "scaling", "Scaling: variant and size", config.scaling, _scaling_label),
        _studied(config, "gates", "Gates", config.gates, _gate_label),
        _studied(config, "locality", "Locality", config.locality, _locality_label),
        _studied(config, "placement", "Placement of softmax", config.placement, lambda row: row.get("variant")),
    ]
    return [*studied, _class_conditional(config), _geneval(config), _cost()]


def _scaling_label(row: dict[str, Any]) -> str | None:
    if row.get(GATE, "none") != "none":
        return None
    return f"{row[NORMALIZATION]}{'' if row[CONV] == 'none' else ' + convolution'}"


def _gate_label(row: dict[str, Any]) -> str | None:
    if row.get(NORMALIZATION, "division") != "division":
        return None
    bare = row.get(CONV, "depthwise") == "none"
    if bare and row[GATE] == "none":
        return None
    return f"{row[GATE]}{', no convolution' if bare else ''}"


def _locality_label(row: dict[str, Any]) -> str | None:
    if row.get(GATE, "none") != "none" or row.get(NORMALIZATION, "division") != "division":
        return None
    kernel = row.get("model.attention.conv_kernel", "5")
    return f"depthwise {kernel}" if row[CONV].startswith("depthwise") else str(row[CONV])


def _studied(config: PaperConfig, name: str, title: str, study: str, label: Label) -> PaperTable:
    """A table of one of our studies, and of the authors' runs that it is about."""
    theirs, (ours, notes) = _theirs(label), _ours(config, study, label)
    frame = theirs.merge(ours, on=["variant", "size"], how="outer", sort=False)
    order = {variant: place for place, variant in enumerate(dict.fromkeys([*theirs["variant"], *ours["variant"]]))}
    frame = frame.sort_values(["size", "variant"], key=lambda c: c.map(order) if c.name == "variant" else c)
    if theirs.empty:
        notes = (*notes, "theirs: the data that is held has nothing of this.")
    elif theirs["FID, theirs"].isna().any():
        missing = int(theirs["FID, theirs"].isna().sum())
        notes = (*notes, f"FID, theirs: {missing} of their {len(theirs)} cells have none in the data that is held.")
    return PaperTable(name=name, title=title, frame=frame.reset_index(drop=True), notes=(*notes, *THEIRS_NOTES))


THEIRS_NOTES = (
    "theirs: one seed; loss of one rank over iterations 150,000 to 200,000; FID at 200,000, without guidance. "
    "Batch and images seen fall with width, so their sizes are side by side, not a scaling law.",
)


def _theirs(label: Label) -> pd.DataFrame:
    found = read_published()
    columns = ["variant", "size", THEIRS_LOSS, "FID, theirs", "parameters, M, theirs"]
    place = found.variants.index
    cells = sorted(records(found.cells), key=lambda row: place(row["variant"]))
    runs = {(r[NORMALIZATION], r[CONV], r[GATE], r["size"]): r for r in cells}
    fids = _published(metric="fid", iteration=200_000, guidance_scale=1.0)
    known = {(r["normalization"], r["conv"], r["gate"], int(r["width"])): r["value"] for r in fids.to_dict("records")}
    rows = []
    for key, cell in runs.items():
        variant = label({name: value for name, value in cell.items() if name not in KEYS})
        if variant is not None:
            rows.append(
                (variant, cell["size"], cell[TRAIN_LOSS], known.get(key, float("nan")), cell["parameters"] / 1e6)
            )
    return pd.DataFrame(rows, columns=columns)


def _ours(config: PaperConfig, study: str, label: Label) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Mean and deviation over seeds of a study's cells by row of the table; and what is missing."""
    fid = f"{EVALUATION}fid"
    columns = ["variant", "size", OURS_LOSS, "sd", "seeds", "FID, ours"]
    try:
        found = read_study(study, Path(config.runs), config.tracking_uri)
    except StoreError as error:
        return pd.DataFrame(columns=columns), (f"ours: none, for {error}.",)
    cells, objective = found.cells, found.study.objective
    cells = cells.assign(variant=[label(row) or "" for row in records(cells)])
    cells = cells[cells["variant"] != ""]
    groups = cells.assign(**{fid: cells.get(fid, float("nan"))}).groupby(["variant", "size"], sort=False)
    frame = groups.agg(
        **{
            OURS_LOSS: (objective, "mean"),
            "sd": (objective, "std"),
            "seeds": ("seed", "nunique"),
            "FID, ours": (fid, "mean"),
        }
    )
    notes = [f"ours: {objective} of the study {study}, mean and deviation over seeds."]
    if fid not in cells:
        notes.append(f"FID, ours: no run of the study {study} has {fid}.")
    if len(found.excluded):
        notes.append(f"ours: {len(found.excluded)} runs of the study {study} do not count; its report says why.")
    return frame.reset_index(), tuple(notes)


def _published(**values: object) -> pd.DataFrame:
    metrics = published_metrics()
    for name, value in values.items():
        metrics = metrics[metrics[name] == value]
    return metrics


def _class_conditional(config: PaperConfig) -> PaperTable:
    """Sample quality of class-conditional models."""
    metrics = published_metrics()
    metrics = metrics[metrics["metric"].isin(QUALITY)]
    setting = ["model", "normalization", "conv", "gate", "width", "iteration", "guidance_scale"]
    wide = metrics.pivot_table(index=setting, columns="metric", values="value", sort=False).reset_index()
    wide = wide.astype({"iteration": "Int64"})
    known = parameters()
    size = [known[(int(row["width"]), row["conv"] != "none")] / 1e6 for row in wide.to_dict("records")]
    frame = wide.assign(whose="theirs", **{"parameters, M": size})
    ours, notes = _our_quality(config)
    columns = ["whose", *setting, *QUALITY, "parameters, M"]
    frame = pd.concat([frame, ours]).reindex(columns=columns)
    kept = (
        "theirs: what is empty is not in the data that is held; ImageNet 256 px, ADM's evaluation, 50,000 samples.",
    )
    return PaperTable(
        name="class_conditional", title="Class-conditional generation", frame=frame, notes=(*notes, *kept)
    )


def _our_quality(config: PaperConfig) -> tuple[pd.DataFrame, tuple[str, ...]]:
    study = config.quality
    try:
        found = read_study(study, Path(config.runs), config.tracking_uri)
    except StoreError as error:
        return pd.DataFrame(), (f"ours: none, for {error}.",)
    measured = {name: f"{EVALUATION}{name}" for name in QUALITY if f"{EVALUATION}{name}" in found.cells}
    if not measured:
        return pd.DataFrame(), (f"ours: no run of the study {study} has metrics of generated images.",)
    groups = found.cells.groupby(["variant", "size"], sort=False)
    frame = groups[list(measured.values())].mean().rename(columns={v: k for k, v in measured.items()}).reset_index()
    size = groups["parameters"].first().to_numpy(float) / 1e6
    frame = frame.rename(columns={"variant": "model", "size": "width"}).assign(whose="ours", **{"parameters, M": size})
    return frame, (f"ours: the study {study}, mean over seeds, on its own data: not to be held against ImageNet.",)


def _geneval(config: PaperConfig) -> PaperTable:
    """Text to image: accuracy by task."""
    overall = {row["model"]: row["value"] for row in _published(metric="geneval").to_dict("records")}
    frame = pd.DataFrame({"task": [*TASKS, OVERALL]})
    for model, value in overall.items():
        frame[f"{model}, theirs"] = [float("nan")] * len(TASKS) + [float(value)]
    notes = ["theirs: the tasks' accuracies are not in the data that is held."]
    if config.geneval is None:
        notes.append("ours: none, for no GenEval file was given (geneval=results.jsonl).")
        return PaperTable(
            name="geneval", title="GenEval by task", frame=frame.assign(ours=float("nan")), notes=(*notes,)
        )
    found = scores(read_results(Path(config.geneval), partial=False)).set_index("task").reindex(frame["task"])
    ends = {
        name: found[column].to_numpy(float) for name, column in (("ours", "score"), ("low", "low"), ("high", "high"))
    }
    notes.append(f"ours: {config.geneval}; 95% interval, clustered by prompt.")
    return PaperTable(name="geneval", title="GenEval by task", frame=frame.assign(**ends), notes=tuple(notes))


def _cost() -> PaperTable:
    """Parameters, operations, latency: what can be counted, we count."""
    kinds = {
        "softmax": AttentionConfig(kind="softmax", conv="none", gate="none"),
        "linear": AttentionConfig(conv="none", gate="none"),
        "linear + convolution + KV gate": AttentionConfig(conv="depthwise", gate="kv"),
    }
    flops = {_of_kind(r): r["value"] for r in _published(metric="attention_gflops").to_dict("records")}
    seconds = {_of_kind(r): r["value"] for r in _published(metric="image_latency").to_dict("records")}
    known, rows = parameters(), []
    for width in WIDTHS:
        for kind, attention in kinds.items():
            plain_form = kind != "linear + convolution + KV gate"
            config = LinaConfig(**SIZES[f"width{width}"], attention=attention)
            at_1024 = from_dict(LinaConfig, {**SIZES[f"width{width}"], **HEADLINE})
            tokens = at_1024.num_tokens + at_1024.condition_tokens
            headline = width == WIDTHS[-1]
            rows.append(
                {
                    "attention": kind,
                    "width": width,
                    "parameters, M, theirs": known[(width, not plain_form)] / 1e6,
                    "parameters, M, ours": count.parameters(config).total / 1e6,
                    "one attention, GMAC, theirs": flops.get(kind, float("nan")) if headline else float("nan"),
                    "one attention, GMAC, ours": count.attention_operations(at_1024, attention, tokens) / 1e9,
                    "an image of 256 px, GMAC, ours": count.generation_operations(config).total / 1e9,
                    "an image of 1,024 px, s, theirs": seconds.get(kind, float("nan")) if headline else float("nan"),
                }
            )
    frame = pd.DataFrame(rows)
    less = 1 - frame["one attention, GMAC, ours"].iloc[-1] / frame["one attention, GMAC, ours"].iloc[-3]
    claim = _published(metric="flops_reduction")["value"].item()
    notes = (
        f"one attention: 5,120 tokens; a multiply-add counts as one. At width 1536 ours saves {less:.1%} of softmax's, "
        f"the paper says {claim:.0%}.",
        "theirs: operations and seconds are published for width 1536 alone; parameters of softmax and of the plain "
        "linear form were counted together. An image: 64 steps of 25, without guidance.",
        "seconds, ours: not measured by this command; `make bench` times one attention on a machine.",
    )
    return PaperTable(name="cost", title="Cost", frame=frame, notes=notes)


def _of_kind(row: dict[Any, Any]) -> str:
    return "softmax" if row["normalization"] == "softmax" else "linear + convolution + KV gate"


def write_tables(config: PaperConfig) -> list[Path]:
    """Write all tables, each as CSV, Markdown and LaTeX, and a page with their notes; returns the files."""
    folder = Path(config.out) / "paper"
    folder.mkdir(parents=True, exist_ok=True)
    found, files = tables(config), []
    for table in found:
        files += write_table(table.frame, folder / table.name)
    sections = [Section(title=table.title, lines=table.notes, tables=[table.frame]) for table in found]
    lead = ("The paper's tables, ours beside theirs. A dash is an empty cell; the notes say why it is empty.",)
    return [*files, *write_report(folder, "The paper's tables", lead, [*sections, versions()])]


def run(config: PaperConfig) -> int:
    """Write the tables and say where; 0."""
    try:
        files = write_tables(config)
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    for file in files:
        print(file)
    return 0


COMMAND = Command(config=PaperConfig, run=run, doc=__doc__, errors=(StoreError, ValueError, YAMLError))
