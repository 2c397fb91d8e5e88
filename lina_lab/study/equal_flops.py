"""Whether the variants of a study with stages take equal FLOPs, once all that they start from counts."""

import math

from lina_lab.config.lineage import lineage_sentences
from lina_lab.records.status import Phase
from lina_lab.study.cost import flops_with_sources
from lina_lab.study.grid import Plan


def budget_sentences(plan: Plan) -> list[str]:
    """The sentences for the compared cells of a plan; empty: its study has no stages."""
    study, trials = plan.study, {cell.config_hash: cell.config for cell in plan.cells}
    totals = dict[str, dict[str, list[float]]]()
    for cell in plan.cells:
        if study.stages is not None and cell.phase is Phase.COMPARISON:
            variant = ", ".join(study.point_name(axis, cell.axes) for axis in study.axes if axis != study.size_axis)
            flops = flops_with_sources(cell.config, trials)
            own = totals.setdefault(study.point_name(study.size_axis, cell.axes), {}).setdefault(variant, [])
            own.append(math.nan if flops is None else flops)
    return lineage_sentences(totals)
