"""Tables of a study, each as CSV, Markdown and LaTeX, and the report that puts them in words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs import StudyRuns
from analysis.views import NAMES, View, audit
from lina_lab.runstore import TRAIN_LOSS

FORMATS = {
    "parameters": "{:,.0f}",
    "images/s": "{:,.0f}",
    "size": "{}",
    "seeds": "{}",
}
DIGITS = 4
SHORT = {
    "val/loss_ema": ("val loss, EMA", "EMA"),
    "val/loss_raw": ("val loss, raw", "raw"),
    TRAIN_LOSS: ("training loss", "training"),
}
"""Metric -> what a table calls it, and its deviation."""
LOWER_HIGHER, FALLS_RISES = ("lower", "higher"), ("it falls", "it rises")
PAIRING = (
    "Paired by seed: both sides saw the same images, masks and noise. Intervals: Student's t over the seeds. The block "
    "standard error is the noise within the runs; where it is far below the interval, seeds are what limits the answer."
)


def summary_table(runs: StudyRuns) -> pd.DataFrame:
    """A row for each variant and size: parameters, seeds, mean and deviation over seeds of each last loss, speed."""
    grouped = runs.cells.groupby(["variant", "size"], sort=False)
    columns = {"parameters": grouped["parameters"].first(), "seeds": grouped["seed"].nunique()}
    for name in ("val/loss_ema", "val/loss_raw") if len(runs.losses) > 1 else (TRAIN_LOSS,):
        shown, short = SHORT[name]
        columns |= {shown: grouped[name].mean(), f"sd {short}": grouped[name].std(ddof=1)}
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


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, numbers to the right."""
    align = ["right" if pd.api.types.is_numeric_dtype(table[column]) else "left" for column in table]
    return rounded(table).to_markdown(index=False, disable_numparse=True, colalign=align)


def report(
    runs: StudyRuns,
    summary: pd.DataFrame,
    differences: pd.DataFrame,
    growth: pd.DataFrame,
    views: Sequence[View],
    fits: Sequence[str],
    fit_numbers: pd.DataFrame | None,
) -> str:
    """The study in Markdown: question, what was held equal, tables, what was left out, which code made it.

    Args:
        runs: the study.
        summary: of `summary_table`.
        differences: of `analysis.compare.over_seeds`.
        growth: of `analysis.compare.with_size`.
        views: of `analysis.views`.
        fits: what is said of the fits.
        fit_numbers: of `analysis.fits.fit_table`; None where nothing is fitted.
    """
    study = runs.study
    lines = [f"# {study.name}", "", study.question.strip(), "", "## Held equal", ""]
    lines += [f"- {item}" for item in study.held_equal]
    lines += ["", "## Design audit", "", *audit_sentences(runs, views)]
    lines += ["", "## Losses", "", "Mean and standard deviation over seeds; smaller is better.", ""]
    lines += [markdown(summary)]
    picture = "scaling" if views[0].about_scaling else "views"
    lines += ["", f"![{study.objective} against parameters]({picture}.png)", "", "![training curves](curves.png)", ""]
    lines += ["## Variant against variant", ""]
    if differences.empty:
        lines += ["Nothing to compare: no two variants that are done differ by one axis."]
    else:
        lines += [PAIRING, "", *sentences(differences, study.objective), ""]
        lines += ["From the smallest size to the largest:", "", *growth_sentences(growth, study.objective), ""]
        lines += [markdown(difference_table(differences)), "", "![paired differences](differences.png)"]
    lines += ["", "## Fits", "", *fits]
    lines += [] if fit_numbers is None else ["", markdown(fit_numbers)]
    lines += ["", "## Left out", ""]
    lines += [f"- {row['label']} ({row['cell']}): {row['status']}, {row['reason']}" for row in records(runs.excluded)]
    lines += [] if len(runs.excluded) else ["Nothing."]
    lines += ["", "## Source", ""]
    lines += [
        f"- {row['cells']} cells at commit {row['commit']}, uncommitted changes: {row['dirty']}"
        for row in records(runs.source)
    ]
    return "\n".join(lines) + "\n"


def audit_sentences(runs: StudyRuns, views: Sequence[View]) -> list[str]:
    """What moved together with size, and what each view may therefore be said to show."""
    found = audit(runs)
    if not found:
        return ["Nothing that was looked at moved together with size: " + ", ".join(NAMES.values()) + "."]
    lines = [f"- {name} moved together with size: {values}" for name, values in found.items()]
    lines += [f"- {view.title}" for view in views]
    return lines


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, a dict each."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def sentences(differences: pd.DataFrame, metric: str) -> list[str]:
    """One sentence for each comparison and size: amount, interval, direction, or that it is not resolved."""
    return [
        f"- size {row['size']}: {row['treatment']} against {row['control']}, {metric} {_verdict(row, LOWER_HIGHER)}"
        for row in records(differences[differences["metric"] == metric])
    ]


def growth_sentences(growth: pd.DataFrame, metric: str) -> list[str]:
    """One sentence for each comparison: how its difference changes from the smallest size to the largest."""
    if growth.empty:
        return ["- one size only: nothing can be said."]
    return [
        f"- {row['treatment']} against {row['control']}, size {row['smallest']} to {row['largest']}: the difference in "
        f"{metric} changes by {_verdict(row, FALLS_RISES)}"
        for row in records(growth[growth["metric"] == metric])
    ]


def _verdict(row: dict[str, Any], words: tuple[str, str]) -> str:
    error = row.get("block_se", float("nan"))
    if row["seeds"] < 2:
        within = f" (block standard error {error:.1g})" if pd.notna(error) else ""
        unknown = "one seed, so no interval: what another seed would give is unknown."
        return f"{row['difference']:+.5f}{within}; {unknown}"
    amount = f"{row['difference']:+.4f}"
    verdict = words[int(row["difference"] > 0)] if row["resolved"] else "not resolved"
    if row["resolved"] and pd.notna(row.get("holm")) and row["holm"] > 0.05:
        verdict += f", alone; among all that is compared here, not (Holm-adjusted p {row['holm']:.2f})"
    return f"{amount} (95% interval {row['low']:+.4f} to {row['high']:+.4f}, {row['seeds']} seeds): {verdict}."
