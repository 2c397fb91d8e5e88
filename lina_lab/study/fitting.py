"""A trial's fields that its data decide: the shape of latents, classes, and texts.

The fields are filled in before a trial is made: its hash is that of a trial whose fields were set by hand.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lina_lab.config import TrialConfig, from_dict
from lina_lab.config.datasets import DATA_SETS
from lina_lab.util.nested import flatten


def fields_of_data(base: Mapping[str, Any], fixed: Collection[str]) -> dict[str, Any]:
    """Fields of a trial as its data have them, where they differ: dotted name -> value.

    A trial that fits its data as it is stays so. Data that cannot be read decide nothing: `study.preflight` names them.

    Args:
        base: the trial's fields as plain nested data.
        fixed: names of the fields that the user set. They stay; `study.preflight` names those that contradict the data.
    """
    data = base["data"]
    if data["name"] not in DATA_SETS or data["path"] is None or not Path(data["path"]).is_dir():
        return {}
    # What comes from another package need not say anything.
    module: Any = DATA_SETS[data["name"]].load()
    try:
        found = module.fields(base) if hasattr(module, "fields") else {}
    except (ValueError, OSError):
        return {}
    if not found or _fits(module, base):
        return {}
    now = flatten(base)
    return {name: value for name, value in found.items() if name not in fixed and now[name] != value}


def _fits(module: Any, base: Mapping[str, Any]) -> bool:
    try:
        module.check_data(from_dict(TrialConfig, dict(base)))
    except (ValueError, OSError):
        return False
    return True
