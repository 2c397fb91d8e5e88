"""Tables of a study, as CSV, Markdown and LaTeX."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lina_lab.records.runstore import TRAIN_LOSS
from lina_lab.util.markup import latex_text, markdown_text

from ..load.lineage import LINEAGE
from ..load.runs import StudyRuns
from ..stats.exploratory import Kind
from ..stats.verdicts import PrimaryVerdict
from .metric_names import metric_name


def signed(value: float) -> str:
    """Write a difference with its sign, and with as many decimals as its size deserves."""
    return f"{value:+.{_decimals(value)}f}" if math.isfinite(value) else str(value)


def plain(value: float | None) -> str:
    """Write a deviation or an error with two significant digits."""
    if value is None or not math.isfinite(value) or value == 0:
        return "0" if value == 0 else EMPTY if value is None or math.isnan(value) else str(value)
    decimals = max(1 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{decimals}f}" if decimals < 8 else f"{value:.1e}"


def count(number: Any, noun: str) -> str:
    """Write a number with its noun, in the plural where that is due."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _decimals(value: float) -> int:
    return next((decimals for limit, decimals in ((100, 0), (10, 1), (1, 2), (0.1, 4)) if abs(value) >= limit), 5)


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


DIGITS, EMPTY = 4, "–"
Form = str | Callable[[Any], str]
OWN_FLOPS, ALL_FLOPS = "training FLOPs", "training FLOPs with sources"
SIGNED = ("difference", "95% CI low", "95% CI high")
FORMATS: dict[str, Form] = {
    **dict.fromkeys(("parameters", "images/s", "from", "to", "iteration", "images"), "{:,.0f}"),
    **dict.fromkeys(("size", "seeds", "width", "points"), "{}"),
    **dict.fromkeys(SIGNED, signed),
    **dict.fromkeys(("block SE", "deviation needed", "SD", "regret", "curvature", "SE of log value"), plain),
    **dict.fromkeys(("largest change", "SD of rounding", "SD of seeds"), plain),
    "rounding / seeds": "{:.2f}",
    "best length": "{:g}",
    "difference on other seeds": signed,
    **dict.fromkeys(("parameters, M", "parameters, M, ours", "parameters, M, published"), "{:,.1f}"),
    "p (Holm)": _p_value,
    **dict.fromkeys((OWN_FLOPS, ALL_FLOPS), "{:.3g}"),
    "FID": "{:.2f}",
    "error at the largest size": "{:.1%}",
    "AICc above the best": "{:.1f}",
}
"""Column -> how its numbers are written."""
UNITS = {", GMAC": "{:,.2f}", ", s": "{:,.2f}"}
"""Format of the columns whose name holds this unit, unless they are in `FORMATS`."""
SHORT = {
    "val/loss_ema": ("val loss, EMA", "EMA"),
    "val/loss_raw": ("val loss, raw", "raw"),
    TRAIN_LOSS: ("training loss", "training"),
}
"""Metric -> its column, and how the column of its standard deviation calls it."""
READABLE = {
    **{"block_se": "block SE", "holm": "p (Holm)", "low": "95% CI low", "high": "95% CI high"},
    "needed_deviation": "deviation needed",
}
"""Column of paired differences -> its name for readers."""
SHOWN = [
    *("comparison", "kind", "size", "metric", "difference", "block_se", "low", "high", "holm", "outcome"),
    *("needed_deviation", "seeds"),
]
EXPONENT = re.compile(r"\\textasciicircum{}-(alpha|beta)\b")
"""A power in the name of a law, once its marks are written as LaTeX has them."""
KINDS = {
    **{Kind.DIFFERENCE: "difference", Kind.GROWTH: "growth", Kind.LOG_GROWTH: "log growth"},
    Kind.INTERACTION: "log interaction",
}


def summary_table(runs: StudyRuns) -> pd.DataFrame:
    """Return a row for each variant and size: parameters, seeds, mean and standard deviation of each loss, speed.

    Where cells start from others, also their training FLOPs, without and with all that they started from.
    """
    grouped = runs.cells.groupby(["variant", "size"], sort=False)
    columns = {"parameters": grouped["parameters"].first(), "seeds": grouped["seed"].nunique()}
    if LINEAGE in runs.cells:
        columns |= {OWN_FLOPS: grouped["flops"].mean(), ALL_FLOPS: grouped[LINEAGE].mean()}
    losses = ("val/loss_ema", "val/loss_raw") if len(runs.losses) > 1 else (TRAIN_LOSS,)
    for name in (*losses, *(name for name in runs.objectives if name not in SHORT)):
        shown, short = SHORT.get(name, (metric_name(name),) * 2)
        columns |= {shown: grouped[name].mean(), f"SD {short}": grouped[name].std(ddof=1)}
    if "images_per_second" in runs.cells:
        columns["images/s"] = grouped["images_per_second"].median()
    table = pd.DataFrame(columns).reset_index()
    rank = {name: i for names in (runs.variants, runs.sizes) for i, name in enumerate(names)}
    return table.sort_values(["size", "variant"], key=lambda column: column.map(rank)).reset_index(drop=True)


def with_other(shown: pd.DataFrame, table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Add the differences of another metric, where they are held, beside those of a table.

    Args:
        shown: see `difference_table`.
        table: see `stats.exploratory.exploratory`.
        metric: the other metric.
    """
    others = table[(table["metric"] == metric) & (table["kind"] == Kind.DIFFERENCE)]
    known = {(row["comparison"], size_text(row["size"])): row["difference"] for row in records(others)}
    keys = zip(shown["comparison"], shown["kind"], shown["size"].astype(str), strict=True)
    values = [known.get((label, size), math.nan) if "difference" in kind else math.nan for label, kind, size in keys]
    place = list(shown.columns).index("difference") + 1
    beside = shown.copy()
    beside.insert(place, f"in {metric_name(metric)}", values)
    return beside.dropna(axis="columns", how="all")


def difference_table(table: pd.DataFrame, verdict: PrimaryVerdict | None = None) -> pd.DataFrame:
    """Return differences and growths with a reader's column names, the primary comparison first.

    Args:
        table: see `stats.exploratory.exploratory`.
        verdict: the primary comparison, if it is part of the table.

    Returns:
        `comparison`, `kind`, `size`, `metric`, `difference`, `block SE`, `95% CI low`, `95% CI high`, `p (Holm)`,
        `outcome`, `deviation needed` (where there is no interval), `seeds`. Columns without a value are left out, and
        the metric where there is only one.
    """
    # Growths come in the order of the differences above them.
    rank = {name: place for names in (KINDS, table["comparison"].unique()) for place, name in enumerate(names)}
    table = table.sort_values(["kind", "comparison"], key=lambda names: names.map(rank), kind="stable")
    growth = table["kind"].isin([Kind.GROWTH, Kind.LOG_GROWTH])
    ends = zip(table["smallest"], table["largest"], strict=True)
    span = pd.Series([f"{size_text(low)} to {size_text(high)}" for low, high in ends], index=table.index, dtype=object)
    found = table.assign(
        kind=table["kind"].map(KINDS),
        size=table["size"].map(size_text).where(~growth, span),
        metric=table["metric"].map(metric_name),
        outcome=table["outcome"].where(table["holm"].notna()).astype(object),
    )
    # Where there is an interval, it says more.
    needed = found["needed_deviation"].where(found["low"].isna())
    found = found.assign(needed_deviation=needed)[SHOWN].rename(columns=READABLE)
    if verdict is not None:
        found = pd.concat([_primary_row(verdict), found], ignore_index=True)[found.columns]
    found = found if found["metric"].nunique() > 1 else found.drop(columns="metric")
    return found.dropna(axis="columns", how="all")


def size_text(value: Any) -> str:
    """Write a size; a column with gaps holds whole numbers as floats."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _primary_row(verdict: PrimaryVerdict) -> pd.DataFrame:
    interval = verdict.interval
    missing = math.isnan(interval.low)
    row = {
        "comparison": verdict.label,
        "kind": f"PRIMARY {'log ' if verdict.scale == 'log' else ''}{verdict.quantity}",
        "size": " to ".join(str(size) for size in verdict.sizes),
        "metric": metric_name(verdict.metric),
        "difference": interval.value,
        "95% CI low": interval.low,
        "95% CI high": interval.high,
        "outcome": None if missing else str(verdict.outcome),
        "deviation needed": verdict.needed_deviation if missing else math.nan,
        "seeds": verdict.seeds,
    }
    return pd.DataFrame([row])


def tuned_table(tuned: pd.DataFrame) -> pd.DataFrame:
    """Return the tuned values with a reader's column names.

    Args:
        tuned: see `stats.tuned.tuned_rates`.
    """
    columns = ["variant", "size", "field", "value", "log_deviation", "regret", "status", "seeds", "tried"]
    text = tuned.assign(value=[EMPTY if pd.isna(value) else f"{value:g}" for value in tuned["value"]])
    return text[columns].rename(columns={"log_deviation": "SE of log value"})


def write_table(table: pd.DataFrame, path: Path) -> list[Path]:
    """Write a table as `path` with the suffixes .csv (all digits), .md and .tex (rounded); returns the files."""
    files = [path.with_suffix(ending) for ending in (".csv", ".md", ".tex")]
    table.to_csv(files[0], index=False)
    files[1].write_text(markdown(table) + "\n", encoding="utf-8")
    columns = "".join("r" if pd.api.types.is_numeric_dtype(table[column]) else "l" for column in table)
    text = rounded(table).map(_latex).rename(columns=_latex).style.hide(axis="index")
    files[2].write_text(text.to_latex(column_format=columns, hrules=True), encoding="utf-8")
    return files


def _latex(text: str) -> str:
    """Text as LaTeX sets it, with the exponents of a law's name raised."""
    marked = EXPONENT.sub(r"$^{-\\\1}$", latex_text(text))
    # After the end of a row, LaTeX takes a bracket or a star for an argument of that end.
    return f"{{}}{marked}" if marked.startswith(("[", "*")) else marked


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text; a missing value is a dash."""
    text = pd.DataFrame(index=table.index)
    for column in table:
        usual = f"{{:.{DIGITS}f}}" if pd.api.types.is_float_dtype(table[column]) else "{}"
        by_unit = next((form for unit, form in UNITS.items() if f"{unit}," in f"{column},"), usual)
        numeric = pd.api.types.is_numeric_dtype(table[column])
        usual_form: Form = "{:+.3g}" if str(column).startswith("in ") else by_unit
        form: Form = FORMATS.get(str(column), usual_form) if numeric else "{}"
        text[column] = [_written(form, value) if pd.notna(value) else EMPTY for value in table[column]]
    ends = [name for name in SIGNED if name in table]
    if ends:
        # A difference and the ends of its interval have as many decimals.
        numbers = table[ends].astype(float)
        decimals = [_decimals(value) for value in numbers.abs().max(axis=1)]
        for name in ends:
            shown = zip(numbers[name], decimals, strict=True)
            text[name] = [f"{value:+.{places}f}" if pd.notna(value) else EMPTY for value, places in shown]
    return text


def _written(form: Form, value: Any) -> str:
    return form.format(value) if isinstance(form, str) else form(value)


def markdown(table: pd.DataFrame) -> str:
    """Return the table in Markdown, with numbers aligned right."""
    align = ["right" if pd.api.types.is_numeric_dtype(table[column]) else "left" for column in table]
    text = rounded(table).map(markdown_text).rename(columns=markdown_text)
    return text.to_markdown(index=False, disable_numparse=True, colalign=align)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
