"""Which cells `study.pruning` compares with each other, and the rule of racing. Imports no scipy: a status asks too."""

import json
from typing import Any

from lina_lab.config.pruning import RacingOptions
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.lineage import stage_of
from lina_lab.study.points import point_key


def racing_options(plan: Plan) -> RacingOptions | None:
    """The options of racing; None where the plan does not race: also with one seed, or a part of the variants, that the
    command line asks for."""
    pruning = plan.study.pruning
    return None if pruning is None or plan.seed is not None or not plan.whole else pruning.racing


def contest(plan: Plan, cell: Cell) -> str:
    """The size of a cell, and the images that it learns: only cells that agree in them are compared to give one up."""
    model, size = cell.config.model, [cell.axes[name] for name in plan.study.axes[plan.study.size_axis]]
    return json.dumps([size, cell.config.data.name, model.latent_channels, model.latent_size])


def peers(plan: Plan, cell: Cell) -> str:
    """Likewise for cells that still train: they begin alike too, with drawn weights or at one stage."""
    return contest(plan, cell) + (stage_of(plan.study, cell.axes) or "")


def is_source(plan: Plan, cell: Cell) -> bool:
    """Whether other cells of the study start from a cell."""
    stages = plan.study.stages
    return stages is not None and stage_of(plan.study, cell.axes) in stages.starts.values()


def given_up(plan: Plan, cell: Cell) -> str | None:
    """Why racing gives up a cell, which is then never trained; None: it does not."""
    return None if plan.raced is None else plan.raced.reasons.get(cell.config_hash)


def rule_of(plan: Plan) -> dict[str, Any]:
    """All that the looks of the races depend on; empty where the plan does not race."""
    options, study = racing_options(plan), plan.study
    if options is None:
        return {}
    return {
        "block": options.block,
        "level": options.level,
        "seeds": list(study.seeds),
        "seeds_at_size": {size: list(seeds) for size, seeds in study.seeds_at_size.items()},
        "variants": sorted(point_key(point) for point in plan.points),
    }
