"""Versions of a study: one configuration each."""

from dataclasses import replace
from pathlib import Path

from lina_lab.study.errors import ChangedError
from lina_lab.study.grid import Plan
from lina_lab.study.store import Store


def newest_version(plan: Plan, runs: Path, url: str | None) -> Plan:
    """The plan under its study's name, or under the first of NAME-v2, NAME-v3, ... whose configuration it has."""
    name, number = plan.study.name, 1
    while True:
        try:
            Store(runs, plan, url)
            return plan
        except ChangedError:
            number += 1
            plan = replace(plan, study=replace(plan.study, name=f"{name}-v{number}"))
