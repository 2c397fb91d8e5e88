"""What a study has compared with: its tuned values, and the rule by which it added seeds. Both stay.

The choice for one variant and size rests on the noise of all (`decisions.tuning.choose_all`). A size that is added
later, or trained in a command of its own, would move every value by a little, and make all cells anew. The interval of
a study that adds seeds until it is resolved holds for the looks that were planned, and for no others.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lina_lab.config import to_dict
from lina_lab.records.status import Phase
from lina_lab.study.contest import rule_of
from lina_lab.study.grid import Plan
from lina_lab.study.points import point_key
from lina_lab.util.errors import ChangedError
from lina_lab.util.files import write_atomically
from lina_lab.util.nested import flatten

COMPARED_FILE = "compared.json"
"""In the study's folder."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the cells of a comparison were made with."""

    settings: dict[str, Any] = field(default_factory=dict)
    """The fields of `study.tune` and `study.tuning` that a choice depends on; empty: nothing is compared yet."""
    values: dict[str, float] = field(default_factory=dict)
    """Point, see `points.point_key` -> its value."""
    until: dict[str, Any] = field(default_factory=dict)
    """`study.until` when seeds were added last; empty: none were."""
    racing: dict[str, Any] = field(default_factory=dict)
    """The rule of racing when variants were judged last, see `racing.rule_of`; empty: none were."""


def read_compared(folder: Path) -> Compared:
    """The tuned values that the study in a folder has compared at."""
    try:
        return Compared(**json.loads((folder / COMPARED_FILE).read_text()))
    except FileNotFoundError:
        return Compared()


def keep_compared(folder: Path, plan: Plan) -> None:
    """Note the values of a plan before its cells are queued, while no other process does.

    Raises:
        ChangedError: the study has compared at other values, or has tuned otherwise.
    """
    check_compared(folder, plan)
    known, now = read_compared(folder), _values(plan)
    noted = replace(known, until=_rule(plan) if plan.look is not None else known.until)
    if plan.raced is not None and plan.raced.begun:
        noted = replace(noted, racing=rule_of(plan))
    if now.keys() - known.values.keys():
        noted = replace(noted, settings=_settings(plan), values={**known.values, **now})
    if noted != known:
        # Earlier versions know no racing.
        plain = {name: value for name, value in asdict(noted).items() if value or name != "racing"}
        write_atomically(folder / COMPARED_FILE, json.dumps(plain, indent=1) + "\n")


def check_compared(folder: Path, plan: Plan) -> None:
    """Refuse another tuning, other tuned values or other looks than those that the comparison's cells were made with.

    Raises:
        ChangedError: what differs.
    """
    known, settings, now = read_compared(folder), _settings(plan), _values(plan)
    _check_looks(known.until, _rule(plan), plan.study.name)
    _check_races(known.racing, plan)
    if not known.settings:
        return
    changes = [f"{name} was {before}" for name, before in known.settings.items() if settings.get(name) != before]
    changes += [
        f"{plan.point_name(json.loads(point))} had {known.values[point]:g}, now {value:g}"
        for point, value in now.items()
        if known.values.get(point, value) != value
    ]
    if changes:
        raise ChangedError(
            f"the study {plan.study.name} has compared its variants at values that were tuned otherwise "
            f"({'; '.join(changes)}): make this one a new version (new_version=true), or give it a name of its own "
            "(study.name=...)"
        )


def _check_looks(before: Mapping[str, Any], now: Mapping[str, Any], name: str) -> None:
    """Refuse a rule under which the looks that were taken count otherwise.

    A study that ends at a width does not ask what the difference is, so it may go on to more seeds. One that ends when
    it is resolved has spent its 5% on the looks that were planned.
    """
    changed = [field for field in before if before[field] != now.get(field)]
    if not before or (now and (not changed or (before["primary"] is None and now["primary"] is None))):
        return
    then = ", ".join(f"{field} {before[field]}" for field in before if before[field] is not None)
    raise ChangedError(
        f"the study {name} has added seeds under study.until ({then}), and its interval holds for the looks of that "
        "rule only: leave study.until as it was, or make this one a new version (new_version=true)",
        [f"study.until.{field}" for field in changed],
    )


def _check_races(before: Mapping[str, Any], plan: Plan) -> None:
    """Refuse another rule of racing, or other seeds, than those that variants were judged by."""
    now = rule_of(plan)
    if not before or before == now or plan.seed is not None or not plan.whole:
        return
    changed = [name for name in before if before[name] != now.get(name)]
    raise ChangedError(
        f"the study {plan.study.name} has judged variants by racing, and its level holds for the looks that were "
        f"planned ({', '.join(changed)} differ): leave study.pruning, the seeds and the axes as they were, or make "
        "this one a new version (new_version=true)",
        [f"study.pruning: {name}" for name in changed],
    )


def with_compared(plan: Plan, folder: Path) -> Plan:
    """The plan with the values that the study in a folder has compared at."""
    return replace(plan, compared=read_compared(folder).values)


def _rule(plan: Plan) -> dict[str, Any]:
    rule: dict[str, Any] = {} if plan.study.until is None else to_dict(plan.study.until)
    return rule


def _values(plan: Plan) -> dict[str, float]:
    cells = (cell for cell in plan.cells if cell.phase is Phase.COMPARISON)
    return {point_key(cell.axes): value for cell in cells for value in cell.tuned.values()}


def _settings(plan: Plan) -> dict[str, Any]:
    """What tuning chooses by. A grid may grow further for a variant or size that is new: no choice changes by that."""
    study: Mapping[str, Any] = to_dict(plan.study)
    found = flatten({name: study[name] for name in ("tune", "tuning")})
    return {name: value for name, value in found.items() if name != "tuning.extend"}
