"""One HTML page of what was found, which needs no other file."""

import base64
from html import escape
from pathlib import Path

import pandas as pd

from lina_lab.evaluation.inspect.quantities import QUANTITIES
from lina_lab.util.files import write_atomically

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .2rem .7rem; text-align: right; }
th:first-child, td:first-child, td.text { text-align: left; } tr { border-bottom: 1px solid #ddd; }
img { max-width: 100%; } figure { margin: 2rem 0; } figcaption { color: #555; }
"""


def means(table: pd.DataFrame) -> pd.DataFrame:
    """The mean of each quantity over the blocks and heads of each part, and with equal weights where there is one.

    Returns:
        A row for each quantity; columns are the parts and, for those with a reference, `PART, equal weights`.
    """
    known = table[table["statistic"].isin(["mean", "uniform"])]
    wide = known.pivot_table(index="quantity", columns=["part", "statistic"], values="value", sort=False)
    columns = [(str(part), str(kind)) for part, kind in wide.columns.to_frame().to_numpy()]
    wide.columns = pd.Index([part if kind == "mean" else f"{part}, equal weights" for part, kind in columns])
    return wide.reindex([name for name in QUANTITIES if name in wide.index])


def write_page(path: Path, title: str, facts: dict[str, str], table: pd.DataFrame, captions: dict[str, str]) -> None:
    """Write the page.

    Args:
        path: of the page; the figures are beside it.
        title: of the page.
        facts: what was looked at: name -> text.
        table: see `Findings.table`.
        captions: file name of each figure -> its caption.
    """
    summary = means(table)
    head = "".join(f"<th>{escape(column)}</th>" for column in summary.columns)
    lines = [
        f"<tr><td>{escape(QUANTITIES[str(name)].title)}</td>"
        + "".join("<td></td>" if pd.isna(value) else f"<td>{value:.3g}</td>" for value in values)
        + f"<td class=text>{escape(QUANTITIES[str(name)].unit)}</td></tr>"
        for name, values in zip(summary.index, summary.to_numpy(), strict=True)
    ]
    pictures = [_picture(path.parent / name, escape(caption)) for name, caption in captions.items()]
    meanings = [
        f"<dt>{escape(QUANTITIES[str(name)].title)} (<code>{escape(str(name))}</code>)</dt>"
        f"<dd>{escape(QUANTITIES[str(name)].documentation)}</dd>"
        for name in summary.index
    ]
    text = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>
<h1>{escape(title)}</h1>
<ul>{"".join(f"<li>{escape(name)}: {escape(fact)}</li>" for name, fact in facts.items())}</ul>
<h2>Means over blocks and heads</h2>
<table><tr><th>quantity</th>{head}<th>unit</th></tr>{"".join(lines)}</table>
{"".join(pictures)}
<h2>Quantities</h2>
<dl>{"".join(meanings)}</dl>
</html>
"""
    write_atomically(path, text)


def _picture(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )
