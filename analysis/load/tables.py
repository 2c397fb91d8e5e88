"""Tables of any project's runs: sizes, amounts of data and losses, from a file or from another project's MLflow store.

Both readers return a plain table of the source's columns. `points_of` gives the columns their roles and checks them, so
a file and a store are refused for the same reasons, in the same words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .errors import TableError

FORMATS = (".csv", ".tsv", ".parquet")
NUMBERS = ("size", "data", "flops", "budget")
"""Roles whose columns hold positive numbers in every row. The loss may be missing: a run can diverge."""
ALL = "all"
"""Name of the variant of a table that has no column of variants."""
SAME_SIZE = 1.01
"""Sizes within this factor are one size: counts that were read off a figure differ in their last digits."""
FLOPS_A_PARAMETER = 6
"""Training FLOPs are about 6 N D (Kaplan et al. 2020), without attention over the context and embeddings."""
HUGE = 1e60
"""Numbers beyond this, or below its inverse, are mistakes: their products leave the range of floats."""
MAX_MISMATCH = 0.1
"""A budget may differ from the FLOPs of its runs by this share."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Names of the source's columns, by what they hold; None for what the source does not have."""

    size: str
    loss: str
    data: str | None = None
    variant: str | None = None
    seed: str | None = None
    flops: str | None = None
    run: str | None = None
    budget: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """Role -> column, of the columns that the source has."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {role: column for role, column in found.items() if column is not None}


@dataclass(frozen=True, kw_only=True)
class ForeignPoints:
    """Points of a table that was checked."""

    source: str
    roles: Roles
    points: pd.DataFrame
    """A row for each point: `variant` and `run` (text), `N`, `size` (N, those within 1% as one), `loss`; `D`, `flops`,
    `budget` and `seed` where the source has them."""
    notes: tuple[str, ...]
    """What was left out or does not match, a sentence each."""

    @property
    def variants(self) -> list[str]:
        """Names of the variants, in the source's order."""
        return list(dict.fromkeys(self.points["variant"]))


def read_table(path: Path) -> pd.DataFrame:
    """Read a file of runs, a row for each.

    Raises:
        TableError: there is no such file, it has another format, or it has no rows.
    """
    if path.suffix not in FORMATS:
        raise TableError(f"{path} is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file")
    if not path.is_file():
        raise TableError(f"there is no file {path}")
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = _read_text(path, "\t" if path.suffix == ".tsv" else ",")
    except pd.errors.EmptyDataError:
        raise TableError(f"{path} is empty") from None
    except (OSError, ValueError) as error:  # ParserError, UnicodeDecodeError and ArrowInvalid are ValueErrors
        raise TableError(f"{path} cannot be read as a table: {error}") from error
    if table.empty:
        raise TableError(f"{path} has no rows")
    return table


def _read_text(path: Path, separator: str) -> pd.DataFrame:
    """Read a text file whose rows have as many cells as its header.

    Raises:
        ValueError: a row has more. pandas would take the first cells for an index and move all the others under a wrong
            name. Or a name stands twice, of which pandas would change the second one.
    """
    header = list(pd.read_csv(path, sep=separator, skipinitialspace=True, header=None, nrows=1, dtype=str).iloc[0])
    for name in header:
        if header.count(name) > 1 and not pd.isna(name):
            raise ValueError(f"its header has the column {name} twice")
    table = pd.read_csv(path, sep=separator, skipinitialspace=True)
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError("its rows have more cells than its header")
    return table


def points_of(
    table: pd.DataFrame, roles: Roles, source: str, drop: int = 0, notes: Sequence[str] = ()
) -> ForeignPoints:
    """Give the columns of a table their roles, and check them.

    Args:
        table: the source's rows. A row is named in messages by its index, where that has a name (a run of a store),
            else by its number, the first being 1.
        roles: the columns.
        source: name of the source, for messages.
        drop: how many of the highest losses of each variant are left out.
        notes: what was left out before.

    Raises:
        TableError: see the module's documentation: one sentence for each reason.
    """
    _check_columns(table, roles, source)
    names, table = _row_names(table), table.reset_index(drop=True)
    losses = _numbers(table[roles.loss], names, source, optional=True)
    finite, notes = np.isfinite(losses), list(notes)
    if not finite.all():
        number = int((~finite).sum())
        notes.append(f"{number} of {len(table)} rows have no finite loss (runs that diverged or did not end): left out")
    # Of a row that is left out, nothing else needs to hold.
    names = [name for name, holds in zip(names, finite, strict=True) if holds]
    table = table[finite].reset_index(drop=True)
    points = pd.DataFrame({"variant": _texts(table, roles.variant, names, source), "loss": losses[finite].to_numpy()})
    points["run"] = names if roles.run is None else _texts(table, roles.run, names, source)
    if roles.seed is not None:
        points["seed"] = _texts(table, roles.seed, names, source)
    for role, column in {"size": "N", "data": "D", "flops": "flops", "budget": "budget"}.items():
        if role in roles.named:
            points[column] = _numbers(table[roles.named[role]], names, source, optional=False)
    points["size"] = _merged_sizes(points["N"])
    _check_points(points, names, roles, source)
    notes += _check_budgets(points, names, roles, source)
    if drop:
        points, note = _dropped(points, drop, source)
        notes.append(note)
    return ForeignPoints(source=source, roles=roles, points=points, notes=tuple(notes))


def _check_columns(table: pd.DataFrame, roles: Roles, source: str) -> None:
    for role, column in roles.named.items():
        if column not in table:
            raise TableError(
                f"{source} has no column {column} ({role}={column}): it has {', '.join(map(str, table.columns))}"
            )
    by_column: dict[str, list[str]] = {}
    for role, column in roles.named.items():
        by_column.setdefault(column, []).append(role)
    for column, shared in by_column.items():
        if len(shared) > 1:
            raise TableError(f"{' and '.join(shared)} are one column of {source}, {column}: each needs its own")


def _row_names(table: pd.DataFrame) -> list[str]:
    """Return what messages call the rows."""
    if table.index.name is None:
        return [f"row {number}" for number in range(1, len(table) + 1)]
    return [f"{table.index.name} {name}" for name in table.index]


def _texts(table: pd.DataFrame, column: str | None, names: Sequence[str], source: str) -> list[str]:
    """Return a column as text, `ALL` where there is none; numbers that are whole have no point."""
    if column is None:
        return [ALL] * len(table)
    for name, missing in zip(names, table[column].isna(), strict=True):
        if missing:
            raise TableError(f"{source}, {name}: {column} is missing")
    return list(table[column].convert_dtypes().astype(str))


def _numbers(column: "pd.Series[Any]", names: Sequence[str], source: str, *, optional: bool) -> "pd.Series[float]":
    """Return a column as positive floats.

    Args:
        column: the column.
        names: what messages call the rows.
        source: name of the table, for messages.
        optional: whether a value may be missing or infinite.
    """
    values = pd.to_numeric(column, errors="coerce").astype(float)
    for name, value, found in zip(names, values, column, strict=True):
        text = "" if pd.isna(found) else str(found).strip()
        if np.isnan(value) and text.lower() not in ("", "nan"):
            raise TableError(f"{source}, {name}: {column.name} is {text!r}, which is no number")
        if not np.isfinite(value) and not optional:
            raise TableError(f"{source}, {name}: {column.name} is {'missing' if np.isnan(value) else 'infinite'}")
        if value <= 0:
            raise TableError(f"{source}, {name}: {column.name} is {value:g}, and it must be positive")
        if np.isfinite(value) and not 1 / HUGE <= value <= HUGE:
            raise TableError(f"{source}, {name}: {column.name} is {value:g}, beyond {1 / HUGE:g} to {HUGE:g}")
    return values


def _merged_sizes(sizes: "pd.Series[float]") -> "pd.Series[float]":
    """Return the sizes with those within `SAME_SIZE` of the smallest of a group replaced by the group's mean."""
    merged, group = {}, 0.0
    for size in sorted(sizes.unique()):
        group = group if group and size <= group * SAME_SIZE else size
        merged[size] = group
    groups = sizes.map(merged)
    return sizes.groupby(groups).transform("mean")


def _check_points(points: pd.DataFrame, names: Sequence[str], roles: Roles, source: str) -> None:
    if points.empty:
        raise TableError(f"{source} has no row with a finite loss")
    if points["run"].nunique() == 1:
        raise TableError(f"{source} holds one run: a law needs runs of several sizes")
    if points["size"].nunique() == 1:
        size = points["N"].iloc[0]
        raise TableError(f"{source} holds one size ({roles.size} = {size:g}): a law needs several")
    # Without amounts of data, runs of one size differ by their FLOPs.
    own = [name for name in ("D", "flops", "budget") if name in points][:1]
    keys = ["variant", "N", *own, *(["seed"] if "seed" in points else []), *(["run"] if roles.run else [])]
    twice = points.duplicated(keys, keep=False)
    if twice.any():
        first = points[twice].iloc[0]
        same = (points[keys] == first[keys]).all(axis=1)
        one, other = (names[index] for index in points.index[same][:2])
        what = ", ".join(f"{name} = {first[name]:g}" for name in ("N", *own))
        raise TableError(
            f"{source}: {one} and {other} are one point ({what}): name the column that tells them apart with "
            "variant=COLUMN, seed=COLUMN or run=COLUMN"
        )


def _check_budgets(points: pd.DataFrame, names: Sequence[str], roles: Roles, source: str) -> list[str]:
    """Compare budgets with the FLOPs of their runs.

    Budgets that do not match 6 N D are refused, because the exponent of the best size would be that of something else.
    Where the table has its own count of FLOPs, the user has said how compute is counted, so a mismatch is a note.
    """
    if "budget" not in points:
        return []
    if "flops" in points:
        spent, what = points["flops"], roles.flops
    elif "D" in points:
        spent, what = FLOPS_A_PARAMETER * points["N"] * points["D"], "6 N D"
    else:
        return []
    factors = (spent / points["budget"]).to_numpy(float)
    distances = np.abs(np.log(factors))
    far = distances > np.log1p(MAX_MISMATCH)
    if not far.any():
        return []
    worst = int(distances.argmax())
    text = (
        f"{int(far.sum())} of {len(points)} rows have a budget that does not match {what} within {MAX_MISMATCH:.0%}: "
        f"{what} is {np.median(factors):.3g} times the budget in the middle, and {factors[worst]:.3g} times in "
        f"{names[worst]}"
    )
    if "flops" in points:
        return [text]
    raise TableError(f"{source}: {text}; name the FLOPs with flops=COLUMN if they are counted in another way")


def _dropped(points: pd.DataFrame, drop: int, source: str) -> tuple[pd.DataFrame, str]:
    fewest = int(points.groupby("variant").size().min())
    if drop >= fewest - 1:
        raise TableError(f"drop={drop} leaves nothing to fit: a variant of {source} has {fewest} rows")
    rank = points.groupby("variant")["loss"].rank(ascending=False, method="first")
    lowest = points.loc[rank <= drop, "loss"].min()
    each = " of each variant" if points["variant"].nunique() > 1 else ""
    note = f"The {drop} highest losses{each} ({lowest:.4g} and more) are left out, as drop={drop} asks"
    return points[rank > drop].reset_index(drop=True), note
