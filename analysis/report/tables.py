"""Tables of a study, each as CSV, Markdown and LaTeX."""

from pathlib import Path
from typing import Any

import pandas as pd

from lina_lab.records.runstore import TRAIN_LOSS

from ..load.runs import StudyRuns

FORMATS = {
    **dict.fromkeys(("parameters", "images/s", "from", "to", "iteration", "images"), "{:,.0f}"),
    **dict.fromkeys(("size", "seeds", "width"), "{}"),
    **dict.fromkeys(("parameters, M", "parameters, M, ours", "parameters, M, theirs"), "{:,.1f}"),
}
UNITS = {", GMAC": "{:,.2f}", ", s": "{:,.2f}"}
"""A column whose name holds the unit, and is not named in `FORMATS`: its form."""
DIGITS, EMPTY = 4, "–"
SHORT = {
    "val/loss_ema": ("val loss, EMA", "EMA"),
    "val/loss_raw": ("val loss, raw", "raw"),
    TRAIN_LOSS: ("training loss", "training"),
}
"""Metric -> what a table calls it, and its deviation."""


def summary_table(runs: StudyRuns) -> pd.DataFrame:
    """A row for each variant and size: parameters, seeds, mean and deviation over seeds of each last loss, speed."""
    grouped = runs.cells.groupby(["variant", "size"], sort=False)
    columns = {"parameters": grouped["parameters"].first(), "seeds": grouped["seed"].nunique()}
    for name in ("val/loss_ema", "val/loss_raw") if len(runs.losses) > 1 else (TRAIN_LOSS,):
        shown, short = SHORT[name]
        columns |= {shown: grouped[name].mean(), f"sd {short}": grouped[name].std(ddof=1)}
    for name in runs.objectives:
        if name not in SHORT:
            columns |= {name: grouped[name].mean(), f"sd {name}": grouped[name].std(ddof=1)}
    if "images_per_second" in runs.cells:
        columns["images/s"] = grouped["images_per_second"].median()
    table = pd.DataFrame(columns).reset_index()
    place = {name: i for names in (runs.variants, runs.sizes) for i, name in enumerate(names)}
    return table.sort_values(["size", "variant"], key=lambda column: column.map(place)).reset_index(drop=True)


def difference_table(differences: pd.DataFrame) -> pd.DataFrame:
    """The differences over seeds, in the words of a table."""
    return pd.DataFrame(
        {
            "change": differences["treatment"] + " − " + differences["control"],
            "size": differences["size"],
            "loss": differences["metric"],
            "difference": differences["difference"],
            "block SE": differences["block_se"],
            "95% low": differences["low"],
            "95% high": differences["high"],
            "p (Holm)": differences["holm"],
            "seeds": differences["seeds"],
            "resolved": differences["resolved"].map({True: "yes", False: "no"}),
        }
    )


def write_table(table: pd.DataFrame, path: Path) -> list[Path]:
    """Write a table as `path` with the endings .csv (all digits), .md and .tex (rounded); returns the files."""
    files = [path.with_suffix(ending) for ending in (".csv", ".md", ".tex")]
    table.to_csv(files[0], index=False)
    text = rounded(table)
    files[1].write_text(markdown(table) + "\n")
    numbers = [not pd.api.types.is_numeric_dtype(table[column]) for column in table]
    columns = "".join("l" if is_text else "r" for is_text in numbers)
    latex = text.map(_latex).rename(columns=_latex).style.hide(axis="index")
    files[2].write_text(latex.to_latex(column_format=columns, hrules=True))
    return files


def _latex(text: str) -> str:
    for mark, command in {"−": "$-$", "–": "--", "%": r"\%", "_": r"\_"}.items():
        text = text.replace(mark, command)
    return text


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text; a missing number is a dash."""
    text = pd.DataFrame(index=table.index)
    for column in table:
        usual = f"{{:.{DIGITS}f}}" if pd.api.types.is_float_dtype(table[column]) else "{}"
        by_unit = next((form for unit, form in UNITS.items() if f"{unit}," in f"{column},"), usual)
        form = FORMATS.get(str(column), by_unit)
        text[column] = [form.format(value) if pd.notna(value) else EMPTY for value in table[column]]
    return text


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, numbers to the right."""
    align = ["right" if pd.api.types.is_numeric_dtype(table[column]) else "left" for column in table]
    return rounded(table).to_markdown(index=False, disable_numparse=True, colalign=align)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, a dict each."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
