"""The cost of a study: a table of its cells, and the audit of what is equal in them."""

import json
import statistics
from dataclasses import replace
from math import isnan
from typing import Any

import pandas as pd

from lina_lab.config.factors import FACTORS, PAIRING, Audit, AuditedCell
from lina_lab.config.factors import audit as compared
from lina_lab.records.record import read_record
from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.cost import memory_bytes, parameters, training_flops
from lina_lab.study.forecast import known_so_far, resolution, to_follow
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.rounds import notes
from lina_lab.study.workspace import Workspace

ENOUGH = 100
"""Cells whose speed is read at most."""
SHOWN = {"parameters": "{:,}", "FLOPs": "{:.3g}", "GiB a device": "{:.2g}", "hours": "{:.3g}"}
"""Column of numbers -> its format."""


def seconds_per_flop(workspace: Workspace) -> float | None:
    """Seconds a FLOP of training on all devices: measured on cells that are done, or as stated; None: neither."""
    plan, measured = workspace.plan, list[float]()
    for cell in plan.cells:
        if len(measured) == ENOUGH:
            break
        record = read_record(workspace.cell_folder(cell), cell.config_hash)
        if record is not None and record.status is CellStatus.DONE and record.result is not None:
            measured.append(cell.config.images_seen / record.result.images_per_second / training_flops(cell.config))
    if measured:
        return float(statistics.median(measured))
    stated = plan.study.resources.flops_per_second
    return None if stated is None else 1 / (stated * plan.study.resources.world_size)


def cell_table(workspace: Workspace) -> pd.DataFrame:
    """A row for each cell: axes, seed, parameters, training FLOPs, memory of a device, steps, hours."""
    rate, devices = seconds_per_flop(workspace), workspace.plan.study.resources.world_size
    return pd.DataFrame([_row(cell, devices, rate) for cell in workspace.plan.cells])


def _row(cell: Cell, devices: int, rate: float | None) -> dict[str, Any]:
    flops = training_flops(cell.config)
    return {
        "cell": cell.config_hash,
        **{field.rpartition(".")[2]: str(value) for field, value in cell.axes.items()},
        **({"phase": cell.phase.value} if cell.tuned else {}),
        **{field.rpartition(".")[2]: f"{value:g}" for field, value in cell.tuned.items()},
        "seed": cell.config.seed,
        "parameters": parameters(cell.config.model),
        "FLOPs": flops,
        "GiB a device": memory_bytes(cell.config, devices) / 2**30,
        "steps": cell.config.max_steps,
        "hours": float("nan") if rate is None else flops * rate / 3600,
    }


def describe(workspace: Workspace) -> str:
    """The plan as text: the cells (one row for seeds and tried values that agree), the total, what may follow and what
    can be resolved, the audit."""
    workspace, states = known_so_far(workspace)
    plan, cells = workspace.plan, cell_table(workspace)
    tuned = [name.rpartition(".")[2] for name in plan.study.tune]
    points = [name for name in cells.columns if name not in ("cell", "seed")]
    merged = cells.groupby(points, sort=False, dropna=False)["seed"].agg(_listed).reset_index()
    if tuned:
        points = [name for name in merged.columns if name not in tuned]
        merged = merged.groupby(points, sort=False, dropna=False)[tuned].agg(" ".join).reset_index()
    for name in ("seed", *tuned):
        merged.insert(len(plan.cells[0].axes) + len(tuned), name.replace("seed", "seeds"), merged.pop(name))
    for name, shown in SHOWN.items():
        merged[name] = merged[name].map(shown.format).replace("nan", "unknown")
    devices, hours = plan.study.resources.world_size, cells["hours"].sum(skipna=False)
    time = (
        "device-hours unknown: no cell is done, and study.resources.flops_per_second is not given"
        if isnan(hours)
        else f"{hours * devices:,.3g} device-hours"
    )
    flops = cells["FLOPs"].sum()
    comparison = replace(plan, cells=tuple(c for c in plan.cells if c.phase is Phase.COMPARISON) or plan.cells)
    found = [f"{line}\n" for line in (*notes(plan), plan.stopped, *plan.cautions()) if line]
    return (
        f"{plan.study.question.strip()}\n\n"
        f"{merged.to_markdown(index=False, floatfmt='.3g', disable_numparse=True)}\n\n"
        f"{len(cells)} cells of {devices} device{'s' if devices > 1 else ''}, {flops:.3g} FLOPs in all, {time}\n\n"
        f"{to_follow(plan, seconds_per_flop(workspace))}{resolution(plan, states)}"
        f"{''.join(found)}"
        "Audit:\n" + "".join(f"- {line}\n" for line in (*audit(comparison).sentences(), PAIRING))
    )


def _listed(seeds: "pd.Series[int]") -> str:
    """Numbers in their order; three or more consecutive ones as first-last."""
    runs: list[list[int]] = []
    for seed in map(int, seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    shown = ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run) for run in runs)
    return " ".join(part for parts in shown for part in parts)


def audit(plan: Plan) -> Audit:
    """Compare the factors of the plan's cells."""
    fields = plan.study.axes[plan.study.size_axis]
    first, sizes = next(iter(fields.items()))
    cells = [
        AuditedCell(
            variant=str([value for field, value in cell.axes.items() if field not in fields]),
            size=_text(cell.axes[first]),
            seeds=(cell.config.seed,),
            factors={name: factor.value(cell.config) for name, factor in FACTORS.items()},
        )
        for cell in plan.cells
    ]
    return compared(cells, [_text(size) for size in sizes])


def _text(size: Any) -> str:
    return size if isinstance(size, str) else json.dumps(size)
