"""Tables of a study, as CSV, Markdown and LaTeX."""

from pathlib import Path
from typing import Any

import pandas as pd

from lina_lab.records.runstore import TRAIN_LOSS

from ..load.runs import StudyRuns
from .metric_names import metric_name

FORMATS = {
    **dict.fromkeys(("parameters", "images/s", "from", "to", "iteration", "images"), "{:,.0f}"),
    **dict.fromkeys(("size", "from size", "to size", "seeds", "width"), "{}"),
    **dict.fromkeys(("difference", "change", "95% CI low", "95% CI high"), "{:+.5f}"),
    **dict.fromkeys(("block SE", "p (Holm)"), "{:.2g}"),
    **dict.fromkeys(("parameters, M", "parameters, M, ours", "parameters, M, published"), "{:,.1f}"),
}
UNITS = {", GMAC": "{:,.2f}", ", s": "{:,.2f}"}
"""Format of the columns whose name holds this unit, unless they are in `FORMATS`."""
DIGITS, EMPTY = 4, "–"
SHORT = {
    "val/loss_ema": ("val loss, EMA", "EMA"),
    "val/loss_raw": ("val loss, raw", "raw"),
    TRAIN_LOSS: ("training loss", "training"),
}
"""Metric -> its column, and how the column of its standard deviation calls it."""
READABLE = {
    **{"smallest": "from size", "largest": "to size", "block_se": "block SE", "holm": "p (Holm)"},
    **{"low": "95% CI low", "high": "95% CI high"},
}
"""Column of paired differences -> its name for readers."""


def summary_table(runs: StudyRuns) -> pd.DataFrame:
    """Return a row for each variant and size: parameters, seeds, mean and standard deviation of each loss, speed."""
    grouped = runs.cells.groupby(["variant", "size"], sort=False)
    columns = {"parameters": grouped["parameters"].first(), "seeds": grouped["seed"].nunique()}
    losses = ("val/loss_ema", "val/loss_raw") if len(runs.losses) > 1 else (TRAIN_LOSS,)
    for name in (*losses, *(name for name in runs.objectives if name not in SHORT)):
        shown, short = SHORT.get(name, (metric_name(name),) * 2)
        columns |= {shown: grouped[name].mean(), f"SD {short}": grouped[name].std(ddof=1)}
    if "images_per_second" in runs.cells:
        columns["images/s"] = grouped["images_per_second"].median()
    table = pd.DataFrame(columns).reset_index()
    rank = {name: i for names in (runs.variants, runs.sizes) for i, name in enumerate(names)}
    return table.sort_values(["size", "variant"], key=lambda column: column.map(rank)).reset_index(drop=True)


def difference_table(means: pd.DataFrame) -> pd.DataFrame:
    """Return the mean differences with a reader's column names.

    Args:
        means: see `stats.paired.mean_differences`.
    """
    columns = ["comparison", "size", "metric", "difference", "block_se", "low", "high", "holm", "seeds"]
    return means[columns].assign(metric=means["metric"].map(metric_name)).rename(columns=READABLE)


def trend_table(trends: pd.DataFrame) -> pd.DataFrame:
    """Return the changes of the differences with size, with a reader's column names.

    Args:
        trends: see `stats.paired.size_trends`.
    """
    columns = ["comparison", "smallest", "largest", "metric", "difference", "low", "high", "seeds"]
    table = trends[columns].assign(metric=trends["metric"].map(metric_name))
    return table.rename(columns={**READABLE, "difference": "change"})


def write_table(table: pd.DataFrame, path: Path) -> list[Path]:
    """Write a table as `path` with the suffixes .csv (all digits), .md and .tex (rounded); returns the files."""
    files = [path.with_suffix(ending) for ending in (".csv", ".md", ".tex")]
    table.to_csv(files[0], index=False)
    text = rounded(table)
    files[1].write_text(markdown(table) + "\n")
    columns = "".join("r" if pd.api.types.is_numeric_dtype(table[column]) else "l" for column in table)
    latex = text.map(_latex).rename(columns=_latex).style.hide(axis="index")
    files[2].write_text(latex.to_latex(column_format=columns, hrules=True))
    return files


def _latex(text: str) -> str:
    for mark, command in {"−": "$-$", "–": "--", "%": r"\%", "_": r"\_"}.items():
        text = text.replace(mark, command)
    return text


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table as text; a missing value is a dash."""
    text = pd.DataFrame(index=table.index)
    for column in table:
        usual = f"{{:.{DIGITS}f}}" if pd.api.types.is_float_dtype(table[column]) else "{}"
        by_unit = next((form for unit, form in UNITS.items() if f"{unit}," in f"{column},"), usual)
        form = FORMATS.get(str(column), by_unit) if pd.api.types.is_numeric_dtype(table[column]) else "{}"
        text[column] = [form.format(value) if pd.notna(value) else EMPTY for value in table[column]]
    return text


def markdown(table: pd.DataFrame) -> str:
    """Return the table in Markdown, with numbers aligned right."""
    align = ["right" if pd.api.types.is_numeric_dtype(table[column]) else "left" for column in table]
    return rounded(table).to_markdown(index=False, disable_numparse=True, colalign=align)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dicts."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
