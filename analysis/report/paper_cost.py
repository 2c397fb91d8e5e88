"""The paper's tables of GenEval's tasks and of cost: published numbers next to our own."""

from pathlib import Path
from typing import Any

import pandas as pd

from lina_lab.config import AttentionConfig, LinaConfig, from_dict, to_dict
from lina_lab.config.presets import SIZES
from lina_lab.model import count

from ..load.geneval_results import TASKS, read_results
from ..load.published import parameters
from ..stats.geneval import OVERALL, scores
from .paper_studies import PaperTable, metrics_with

WIDTHS = (768, 1024, 1536)
HEADLINE = {"latent_channels": 4, "latent_size": [128, 128], "patch_size": 2, "num_classes": None}
"""The shape of the published operations of one attention: 4,096 + 1,024 tokens."""
LINA_FORM = "linear + convolution + KV gate"
FORMS = {
    "softmax": AttentionConfig(kind="softmax", conv="none", gate="none"),
    "linear": AttentionConfig(conv="none", gate="none"),
    LINA_FORM: AttentionConfig(conv="depthwise", gate="kv"),
}


def geneval_table(file: str | None) -> PaperTable:
    """Make the table of text-to-image accuracy by task.

    Args:
        file: results of the official tool, for our column; None: the column is empty.

    Raises:
        ResultsError: the file is damaged or incomplete.
    """
    overall = {row["model"]: row["value"] for row in metrics_with(metric="geneval").to_dict("records")}
    frame = pd.DataFrame({"task": [*TASKS, OVERALL]})
    for model, value in overall.items():
        frame[f"{model}, published"] = [float("nan")] * len(TASKS) + [float(value)]
    notes = ["published: accuracies by task are not in the available data."]
    if file is None:
        frame["ours"] = float("nan")
        notes.append("ours: none, because no GenEval file was given (geneval=results.jsonl).")
    else:
        found = scores(read_results(Path(file)))[["task", "score", "low", "high"]].rename(columns={"score": "ours"})
        frame = frame.merge(found, on="task", how="left")
        notes.append(f"ours: {file}; 95% confidence interval, clustered by prompt.")
    return PaperTable(name="geneval", title="GenEval by task", frame=frame, notes=tuple(notes))


def cost_frame() -> pd.DataFrame:
    """Return parameters, operations and latency of each attention and width; ours are counted."""
    flops = {_of_kind(r): r["value"] for r in metrics_with(metric="attention_gflops").to_dict("records")}
    seconds = {_of_kind(r): r["value"] for r in metrics_with(metric="image_latency").to_dict("records")}
    known, rows = parameters(), []
    for width in WIDTHS:
        for kind, attention in FORMS.items():
            plain_form = kind != LINA_FORM
            config = LinaConfig(**SIZES[f"width{width}"], attention=attention)
            at_1024 = from_dict(LinaConfig, {**SIZES[f"width{width}"], **HEADLINE})
            tokens = at_1024.num_tokens + at_1024.condition_tokens
            headline = width == WIDTHS[-1]
            rows.append(
                {
                    "attention": kind,
                    "width": width,
                    "parameters, M, published": known[(width, not plain_form)] / 1e6,
                    "parameters, M, ours": count.parameters(config).total / 1e6,
                    "one attention, GMAC, published": flops.get(kind, float("nan")) if headline else float("nan"),
                    "one attention, GMAC, ours": count.attention_operations(at_1024, attention, tokens) / 1e9,
                    "an image of 256 px, GMAC, ours": count.generation_operations(config).total / 1e9,
                    "an image of 1,024 px, s, published": seconds.get(kind, float("nan")) if headline else float("nan"),
                }
            )
    return pd.DataFrame(rows)


def image_saving(pixels: int) -> float:
    """Return the share of an image's operations that LINA saves of softmax's at width 1536, by our count.

    Args:
        pixels: 256, class-conditional, 64 autoregressive steps; or 1,024, as text-to-image, 128 steps.
    """
    totals = []
    for form in ("softmax", LINA_FORM):
        shape = SIZES[f"width{WIDTHS[-1]}"] | (HEADLINE if pixels == 1024 else {})
        config = from_dict(LinaConfig, {**shape, "attention": to_dict(FORMS[form])})
        totals.append(count.generation_operations(config, steps=128 if pixels == 1024 else 64).total)
    return 1 - totals[1] / totals[0]


def cost_table() -> PaperTable:
    """Make the table of parameters, operations and latency, see `cost_frame`."""
    frame = cost_frame()
    less = 1 - frame["one attention, GMAC, ours"].iloc[-1] / frame["one attention, GMAC, ours"].iloc[-3]
    claim = metrics_with(metric="flops_reduction")["value"].item()
    notes = (
        f"one attention: 5,120 tokens; a multiply-add counts as one. At width 1536 ours saves {less:.1%} of softmax's "
        f"operations; the paper says {claim:.0%}.",
        "published: operations and seconds are available for width 1536 only; the parameters of softmax and of the "
        "plain linear form were counted together. An image: 64 autoregressive steps of 25 ODE steps, without guidance.",
        "seconds, ours: not measured by this command; `make bench` measures one attention.",
    )
    return PaperTable(name="cost", title="Cost", frame=frame, notes=notes)


def _of_kind(row: dict[Any, Any]) -> str:
    return "softmax" if row["normalization"] == "softmax" else LINA_FORM
