"""The report of a table of runs: page, tables, figures, and `fit.json` for programs."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from ..load.tables import ALL, FLOPS_A_PARAMETER, ForeignPoints
from ..stats.foreign import VariantFit, warnings
from ..stats.run_laws import Number, NumberStatus
from ..stats.status import FitStatus
from .figure_files import PICTURE, write_figures
from .figures import STYLE
from .foreign_figures import isoflop_figure, law_figure
from .page import Section, versions, write_report
from .tables import count, write_table

FORMAT = 1
"""Version of `fit.json`: rises when a name or a meaning changes."""
RESAMPLED = (
    "An interval without seeds is over runs: laws are refitted to resampled runs, and best sizes to the runs without "
    "one of them (standard error times Student's t)."
)


@dataclass(frozen=True, kw_only=True)
class ForeignReport:
    """What a report of a table shows."""

    table: ForeignPoints
    level: float
    variants: Sequence[VariantFit]

    @property
    def several(self) -> bool:
        """Whether the source names its variants."""
        return self.table.roles.variant is not None


def as_json(report: ForeignReport) -> dict[str, Any]:
    """Return the content of `fit.json`: see `docs/foreign-data.md`."""
    table = report.table
    found = {
        variant.name: {name: _json_number(number) for name, number in variant.numbers.items()}
        for variant in report.variants
    }
    return {
        "format": FORMAT,
        "source": table.source,
        "columns": table.roles.named,
        "level": report.level,
        "rows": len(table.points),
        "runs": int(table.points["run"].nunique()),
        "notes": [*table.notes, *_warned(report)],
        **({"variants": found} if report.several else {"numbers": found[ALL]}),
    }


def _json_number(number: Number) -> dict[str, Any]:
    ends = {name: getattr(number.estimate, name) for name in ("value", "low", "high")}
    return {
        **{name: float(value) if math.isfinite(value) else None for name, value in ends.items()},
        "level": number.estimate.level,
        "status": str(number.status),
        "reason": number.reason,
    }


def write_foreign_report(report: ForeignReport, folder: Path) -> list[Path]:
    """Write the report and `fit.json`; returns the files.

    Args:
        report: what it shows.
        folder: is made if it does not exist.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "fit.json"]
    files[0].write_text(json.dumps(as_json(report), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with plt.style.context(STYLE):
        found = {"foreign_law": law_figure(report.variants), "isoflop": isoflop_figure(report.variants)}
        drawn = {name: figure for name, figure in found.items() if figure is not None}
        files += write_figures(drawn, folder)
    tables = {"numbers": number_table(report), "optima": optima_table(report)}
    for name, table in tables.items():
        files += write_table(table, folder / name) if len(table) else []
    title = f"Scaling laws of {Path(report.table.source).name}"
    sections = _sections(report, tables, {name: folder / f"{name}{PICTURE}" for name in drawn})
    return [*files, *write_report(folder, title, _lead(report), [*sections, versions()])]


def number_table(report: ForeignReport) -> pd.DataFrame:
    """Return a row for each number of each variant, as text."""
    rows = []
    for variant in report.variants:
        for name, number in variant.numbers.items():
            ends = [_text(getattr(number.estimate, end)) for end in ("value", "low", "high")]
            rows.append((variant.name, name, *ends, str(number.status), number.reason))
    columns = ["variant", "number", "value", "low", "high", "status", "reason"]
    return _without_all(pd.DataFrame(rows, columns=columns), report)


def optima_table(report: ForeignReport) -> pd.DataFrame:
    """Return a row for each compute budget of each variant, as text: best size, its loss, or why there is none."""
    parts = [
        variant.compute.optima.assign(variant=variant.name)
        for variant in report.variants
        if variant.compute is not None
    ]
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    text = {name: table[name].map(_text) for name in ("flops", "size", "loss")}
    shown = pd.DataFrame({"variant": table["variant"], **text, "status": table["status"].map(str)})
    shown = shown.assign(reason=table["reason"]).rename(columns={"flops": "FLOPs", "size": "best size"})
    return _without_all(shown, report)


def _without_all(table: pd.DataFrame, report: ForeignReport) -> pd.DataFrame:
    return table if report.several else table.drop(columns="variant")


def _text(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _lead(report: ForeignReport) -> list[str]:
    points, roles = report.table.points, report.table.roles
    named = {"N": roles.size, "D": roles.data, "loss": roles.loss}
    meanings = ", ".join(f"{symbol} is {column}" for symbol, column in named.items() if column not in (None, symbol))
    number = count(points["run"].nunique(), "run")
    sizes = count(points["size"].nunique(), "size")
    first = f"{number} of {sizes}{': ' if meanings else ''}{meanings}. Intervals are at {report.level:.0%}."
    return [first, *(f"{_prefix(v, report)}{_law_sentence(v)}" for v in report.variants)]


def _prefix(variant: VariantFit, report: ForeignReport) -> str:
    return f"{variant.name}: " if report.several else ""


def _law_sentence(variant: VariantFit) -> str:
    """Write the law that holds with its numbers, or why there is none."""
    law = variant.preferred
    if not law.holds:
        return f"No law holds: {law.fit.reason}."
    values = {name: number.estimate.value for name, number in law.numbers.items()}
    terms = [f"{values['E']:.4g}"] if values.get("E", 0) > 0 else []
    for symbol, amount, exponent in (("N", "A", "alpha"), ("D", "B", "beta")):
        if amount in values:
            terms.append(f"{values[amount]:.4g} {symbol}^-{values[exponent]:.3f}")
    return f"L = {' + '.join(terms)}."


def _sections(report: ForeignReport, tables: dict[str, pd.DataFrame], pictures: dict[str, Path]) -> list[Section]:
    law = [line for variant in report.variants for line in _law_lines(variant, report)]
    best = [line for variant in report.variants for line in _compute_lines(variant, report)]
    shown = [pictures[name] for name in ("foreign_law",) if name in pictures]
    equal = [pictures[name] for name in ("isoflop",) if name in pictures]
    tested = [f"{_prefix(v, report)}{_held_out_sentence(v.held_out)}" for v in report.variants]
    optima = [tables["optima"]] if len(tables["optima"]) else []
    return [
        Section(title="Law of size and data", lines=law, tables=[tables["numbers"]], pictures=shown),
        Section(title="Best size at equal FLOPs", lines=best, tables=optima, pictures=equal),
        Section(title="Largest sizes left out", lines=tested),
        Section(title="What was read", lines=_read_lines(report)),
    ]


def _law_lines(variant: VariantFit, report: ForeignReport) -> list[str]:
    lines, law = [], variant.law
    prefix = _prefix(variant, report)
    if not law.holds:
        lines.append(f"{prefix}{law.fit.law.name}: {law.fit.status}, {law.fit.reason}.")
    names = ("alpha", "beta", "E")
    parts = [
        f"{name} {_interval(variant.preferred.numbers[name])}" for name in names if name in variant.preferred.numbers
    ]
    if variant.preferred.holds:
        lines.append(f"{prefix}{', '.join(parts)}; {variant.preferred.unit}.")
    at = law.numbers.get("E")
    if at is not None and at.status is NumberStatus.UNDETERMINED:
        lines.append(f"{prefix}E is not determined: {at.reason}.")
    return [*lines, *([f"{prefix}{variant.note}"] if variant.note else [])]


def _compute_lines(variant: VariantFit, report: ForeignReport) -> list[str]:
    prefix, found = _prefix(variant, report), variant.compute
    if found is None:
        return [f"{prefix}FLOPs are not known: the table has neither amounts of data, nor FLOPs, nor budgets."]
    if found.reason:
        return [f"{prefix}{found.reason}."]
    held = int((found.optima["status"] == FitStatus.OK).sum())
    kind = "the table's budgets" if found.given else "the losses of each size are interpolated"
    numbers = (
        ("best size grows as C^", found.best_size),
        ("best data as C^", found.best_data),
        ("the loss above its limit falls as C^-", found.frontier_exponent),
    )
    texts = [f"{text}{_interval(number)}" for text, number in numbers if math.isfinite(number.estimate.value)]
    reasons = [f"{prefix}{n.reason}." for _, n in numbers[:1] if not math.isfinite(n.estimate.value)]
    summary = f"{prefix}{held} of {len(found.optima)} budgets have a best size ({kind}); {', '.join(texts)}."
    return [summary if texts else f"{prefix}{held} of {len(found.optima)} budgets have a best size ({kind}).", *reasons]


def _interval(number: Number) -> str:
    at = number.estimate
    if not math.isfinite(at.value):
        return f"unknown ({number.reason})"
    if not math.isfinite(at.low):
        return f"{at.value:.3f} (no interval: {at.reason})"
    return f"{at.value:.3f} ({at.low:.3f} to {at.high:.3f})"


def _held_out_sentence(number: Number) -> str:
    at = number.estimate
    if not math.isfinite(at.value):
        return f"The law could not be tested: {number.reason}."
    ends = f" ({at.low:+.2%} to {at.high:+.2%})" if math.isfinite(at.low) else ""
    text = f"Fitted without the largest sizes, the law is off by {at.value:+.2%}{ends} there"
    if number.status is NumberStatus.WARNING:
        return f"WARNING: {text} ({number.reason})."
    return f"{text}: no more than noise explains." if math.isfinite(at.low) else f"{text}."


def _warned(report: ForeignReport) -> list[str]:
    return [f"{_prefix(variant, report)}{line}" for variant in report.variants for line in warnings(variant)]


def _read_lines(report: ForeignReport) -> list[str]:
    table = report.table
    roles = ", ".join(f"{role}={column}" for role, column in table.roles.named.items())
    lines = [f"{table.source}: {count(len(table.points), 'row')} with {roles}.", *(f"{note}." for note in table.notes)]
    if table.roles.flops is None and table.roles.budget is None and table.roles.data is not None:
        lines.append(f"The table has no FLOPs: a run's are {FLOPS_A_PARAMETER} N D.")
    path = Path(table.source)
    if path.is_file():
        lines.append(f"{path.name}: SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return [*lines, RESAMPLED]
