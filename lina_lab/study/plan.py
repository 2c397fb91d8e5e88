"""The cost of a study: a table of its cells, and the audit of what is equal in them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isnan
from typing import Any

from tabulate import tabulate

from lina_lab.config import StudyConfig
from lina_lab.config.factors import FACTORS, PAIRING, Audit, AuditedCell
from lina_lab.config.factors import audit as compared
from lina_lab.records.record import read_record
from lina_lab.records.status import CellStatus, Phase
from lina_lab.study.cost import memory_bytes, micro_batch, parameters
from lina_lab.study.disk import disk_sentence
from lina_lab.study.equal_flops import budget_sentences
from lina_lab.study.forecast import known_so_far, resolution, to_follow
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.lineage import own_flops, total_flops
from lina_lab.study.rounds import notes
from lina_lab.study.speed import Speed, speed_of
from lina_lab.study.tidying import surplus_sentence
from lina_lab.study.workspace import Workspace

TOTAL = "with its sources"
"""Column of the training FLOPs of a cell and of all that it starts from."""
SHOWN = {
    "parameters": "{:,}",
    "FLOPs": "{:.3g}",
    TOTAL: "{:.3g}",
    "GiB a device": "{:.2g}",
    "hours": "{:.3g}",
}
"""Column of numbers -> its format."""
WORDS = "words"
"""The text encoder that needs no file, see `data.text`."""
ASSUMED = "hours, assumed"
"""Column of the hours where no cell was measured."""


def cell_table(workspace: Workspace) -> list[dict[str, Any]]:
    """A row for each cell: axes, seed, parameters, training FLOPs, memory of a device, steps, hours."""
    speed, study = speed_of(workspace), workspace.plan.study
    return [_row(cell, study, speed) for cell in workspace.plan.cells]


def _row(cell: Cell, study: StudyConfig, speed: Speed | None) -> dict[str, Any]:
    resources, stages = study.resources, study.stages
    phases = bool(study.tune) or study.rounding is not None or stages is not None
    return {
        "cell": cell.config_hash,
        **{field.rpartition(".")[2]: str(value) for field, value in cell.axes.items()},
        **({"phase": cell.phase.value} if phases else {}),
        **({"starts from": stages.starts.get(study.point_name(stages.axis, cell.axes), "")} if stages else {}),
        **{field.rpartition(".")[2]: f"{value:g}" for field, value in cell.tuned.items()},
        "seed": cell.config.seed,
        "parameters": parameters(cell.config.model),
        "FLOPs": own_flops(cell),
        **({TOTAL: total_flops(cell)} if stages is not None else {}),
        "GiB a device": memory_bytes(cell.config, resources) / 2**30,
        "steps": cell.config.max_steps,
        "hours": float("nan") if speed is None else speed.seconds(cell, resources) / 3600,
    }


def describe(workspace: Workspace, workers: int = 1) -> str:
    """The plan as text: the cells (one row for seeds and tried values that agree), the total, what may follow and what
    can be resolved, the audit.

    Args:
        workspace: the plan, and where results go.
        workers: cells that train at the same time.
    """
    workspace, states = known_so_far(workspace)
    plan, cells, speed = workspace.plan, cell_table(workspace), speed_of(workspace)
    tuned = [name.rpartition(".")[2] for name in plan.study.tune]
    rows = [{**row, **{name: shown.format(row[name]) for name, shown in SHOWN.items() if name in row}} for row in cells]
    merged = _merged(rows, {"seed": _listed}, left_out=("cell",))
    if tuned:
        merged = _merged(merged, dict.fromkeys(tuned, " ".join))
    columns = [name for name in merged[0] if name not in ("seed", *tuned)]
    place = len(plan.cells[0].axes)
    columns[place:place] = [*reversed(tuned), "seed"]
    titles = {"seed": "seeds"} if speed is None or speed.cells else {"seed": "seeds", "hours": ASSUMED}
    table = [
        [str(row[name]).replace("nan", "unknown") if name in SHOWN else row[name] for name in columns] for row in merged
    ]
    heads = [titles.get(name, name) for name in columns]
    devices, hours = plan.study.resources.world_size, sum(row["hours"] for row in cells)
    assumed = "" if speed is None or speed.cells else " at the assumed rate"
    time = "device-hours unknown" if isnan(hours) else f"{hours * devices:,.3g} device-hours{assumed}"
    flops = sum(row["FLOPs"] for row in cells)
    comparison = replace(plan, cells=tuple(c for c in plan.cells if c.phase is Phase.COMPARISON) or plan.cells)
    found = [f"{line}\n" for line in (*_extended(plan), *notes(plan), plan.stopped, *plan.cautions()) if line]
    return (
        f"{plan.study.question.strip()}\n\n"
        f"{tabulate(table, heads, 'pipe', floatfmt='.3g', disable_numparse=True)}\n\n"
        f"{len(cells)} cells of {devices} device{'s' if devices > 1 else ''}, {flops:.3g} FLOPs in all, {time}\n\n"
        f"{_what_is_known(workspace, speed, workers)}\n"
        f"{to_follow(plan, speed)}{resolution(plan, states)}"
        f"{''.join(found)}"
        "Audit:\n"
        + "".join(f"- {line}\n" for line in (*audit(comparison).sentences(), *budget_sentences(plan), PAIRING))
    )


def _extended(plan: Plan) -> list[str]:
    """How many cells go on with those of another study."""
    if plan.study.extends is None:
        return []
    goes_on = sum(cell.images_before > 0 for cell in plan.cells)
    return [
        f"{goes_on} of {len(plan.cells)} cells go on with those of {plan.study.extends}; FLOPs are of what is left."
    ]


def _merged(
    rows: Sequence[Mapping[str, Any]], joined: Mapping[str, Callable[[list[Any]], str]], left_out: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One row for those that agree in all but the columns that are joined, in the order of the first ones."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        point = [(name, value) for name, value in row.items() if name not in (*joined, *left_out)]
        groups.setdefault(str(point), []).append(row)
    return [
        {name: value for name, value in group[0].items() if name not in left_out}
        | {name: join([row[name] for row in group]) for name, join in joined.items()}
        for group in groups.values()
    ]


def _listed(seeds: Sequence[int]) -> str:
    """Numbers in their order; three or more consecutive ones as first-last."""
    runs: list[list[int]] = []
    for seed in map(int, seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    shown = ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run) for run in runs)
    return " ".join(part for parts in shown for part in parts)


def _what_is_known(workspace: Workspace, speed: Speed | None, workers: int) -> str:
    """Where time, memory and disk of the table come from, a line each."""
    plan, resources = workspace.plan, workspace.plan.study.resources
    ended = [read_record(workspace.cell_folder(cell), cell.config_hash) for cell in plan.cells]
    cells = [cell for cell, record in zip(plan.cells, ended, strict=True) if record is None or not record.status.final]
    done = f"{len(plan.cells) - len(cells)} cells have ended.\n" if len(cells) < len(plan.cells) else ""
    if speed is None:
        time = "unknown: no cell is done, and study.resources.flops_per_second is not given."
    elif speed.cells:
        time = (
            f"measured on {speed.cells} finished cell{'s' if speed.cells > 1 else ''}: training, validation, generated "
            "images and start-up. Waiting for workers, jobs or stores is not in it."
        )
    else:
        time = (
            f"an assumption, not a measurement: study.resources.flops_per_second={resources.flops_per_second:g} of a "
            "device for training, validation and generated images. Start-up, checkpoints and decoding are not in it."
        )
    batches = sorted({micro_batch(cell.config, resources) for cell in plan.cells})
    images = " or ".join(f"{batch:,}" for batch in batches)
    devices = f"{resources.world_size} device{'s' if resources.world_size > 1 else ''}"
    memory = (
        f"estimated within about a factor of two, for {resources.strategy} on {devices} and micro-batches of {images} "
        "images a device"
    )
    if any(cell.config.model.gradient_checkpointing for cell in plan.cells):
        memory += ", with gradient checkpointing"
    disk = disk_sentence([cell.config for cell in cells], workspace.folder, workspace.runs, workers)
    known = zip(plan.cells, ended, strict=True)
    prunable = surplus_sentence(
        (workspace.cell_folder(cell), cell.config, record is not None and record.status is CellStatus.DONE)
        for cell, record in known
    )
    disk += f" {prunable}." if prunable else ""
    return f"{done}- Time: {time}\n- Memory: {memory}.\n- Disk: {disk}\n{_not_looked_at(plan)}"


def _not_looked_at(plan: Plan) -> str:
    """What a cell needs and a plan does not load, as a line; empty: nothing."""
    fields = []
    for config in (cell.config for cell in plan.cells):
        named = {"data.encoder": config.data.encoder, "sampling.vae": config.sampling.vae}
        fields += [f"{name}={value}" for name, value in named.items() if value not in (None, WORDS)]
    listed = ", ".join(dict.fromkeys(fields))
    return f"- Not looked at: {listed}. They are loaded when a cell starts.\n" if listed else ""


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
