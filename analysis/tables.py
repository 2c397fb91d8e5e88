"""Tables of a study, each as CSV, Markdown and LaTeX, and the report that puts them in words."""

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs import StudyRuns

FORMATS = {
    "parameters": "{:,.0f}",
    "images/s": "{:,.0f}",
    "size": "{}",
    "seeds": "{}",
}
DIGITS = 4


def summary_table(runs: StudyRuns) -> pd.DataFrame:
    """A row for each variant and size: parameters, seeds, mean and deviation over seeds of each last loss, speed."""
    grouped = runs.cells.groupby(["variant", "size"], sort=False)
    table = pd.DataFrame(
        {
            "parameters": grouped["parameters"].first(),
            "seeds": grouped["seed"].nunique(),
            "val loss, EMA": grouped["val/loss_ema"].mean(),
            "sd EMA": grouped["val/loss_ema"].std(ddof=1),
            "val loss, raw": grouped["val/loss_raw"].mean(),
            "sd raw": grouped["val/loss_raw"].std(ddof=1),
            "images/s": grouped["images_per_second"].median(),
        }
    ).reset_index()
    place = {variant: i for i, variant in enumerate(runs.variants)}
    return table.sort_values(["size", "variant"], key=lambda c: c.map(place) if c.name == "variant" else c).reset_index(
        drop=True
    )


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
            "seeds": differences["seeds"],
            "resolved": differences["resolved"].map({True: "yes", False: "no"}),
        }
    )


def write_table(table: pd.DataFrame, path: Path) -> list[Path]:
    """Write a table as `path` with the endings .csv (all digits), .md and .tex (rounded); returns the files."""
    files = [path.with_suffix(ending) for ending in (".csv", ".md", ".tex")]
    table.to_csv(files[0], index=False)
    text = rounded(table)
    files[1].write_text(text.to_markdown(index=False, disable_numparse=True) + "\n")
    numbers = [not pd.api.types.is_numeric_dtype(table[column]) for column in table]
    columns = "".join("l" if is_text else "r" for is_text in numbers)
    latex = text.map(_latex).rename(columns=_latex).style.hide(axis="index")
    files[2].write_text(latex.to_latex(column_format=columns, hrules=True))
    return files


def _latex(text: str) -> str:
    for mark, command in {"−": "$-$", "%": r"\%", "_": r"\_"}.items():
        text = text.replace(mark, command)
    return text


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text; a missing number is an empty cell."""
    text = pd.DataFrame(index=table.index)
    for column in table:
        form = FORMATS.get(str(column), f"{{:.{DIGITS}f}}" if pd.api.types.is_float_dtype(table[column]) else "{}")
        text[column] = [form.format(value) if pd.notna(value) else "" for value in table[column]]
    return text


def report(runs: StudyRuns, summary: pd.DataFrame, differences: pd.DataFrame, objective: pd.DataFrame) -> str:
    """The study in Markdown: question, what was held equal, tables, what was left out, which code made it."""
    study = runs.study
    lines = [f"# {study.name}", "", study.question.strip(), "", "## Held equal", ""]
    lines += [f"- {item}" for item in study.held_equal]
    lines += ["", "## Losses", "", "Mean and standard deviation over seeds; smaller is better.", ""]
    lines += [rounded(summary).to_markdown(index=False, disable_numparse=True)]
    lines += ["", f"![{study.objective} against parameters](scaling.png)", "", "![training curves](curves.png)", ""]
    lines += ["## Variant against variant", "", *sentences(objective), ""]
    lines += [rounded(difference_table(differences)).to_markdown(index=False, disable_numparse=True)]
    lines += ["", "![paired differences](differences.png)", "", "## Left out", ""]
    lines += [f"- {row['label']} ({row['cell']}): {row['status']}, {row['reason']}" for row in records(runs.excluded)]
    lines += [] if len(runs.excluded) else ["Nothing."]
    lines += ["", "## Source", ""]
    lines += [
        f"- {row['cells']} cells at commit {row['commit']}, uncommitted changes: {row['dirty']}"
        for row in records(runs.source)
    ]
    return "\n".join(lines) + "\n"


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, a dict each."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def sentences(differences: pd.DataFrame) -> list[str]:
    """One sentence for each comparison and size: direction, amount, interval, or that it is not resolved."""
    said = []
    for row in records(differences):
        where = f"size {row['size']}: {row['treatment']} against {row['control']}, {row['metric']} "
        amount = f"{row['difference']:+.4f}"
        if row["seeds"] < 2:
            said.append(f"- {where}{amount}; one seed, so no interval.")
            continue
        interval = f"95% interval {row['low']:+.4f} to {row['high']:+.4f}, {row['seeds']} seeds"
        verdict = ("lower" if row["difference"] < 0 else "higher") if row["resolved"] else "not resolved"
        said.append(f"- {where}{amount} ({interval}): {verdict}.")
    return said
