"""Whether a study in the store is the one of the command: its configuration and its folder."""

import json
import uuid
from collections.abc import Mapping
from os.path import normpath
from pathlib import Path
from typing import Any

from optuna import Study

from lina_lab.config import TrialConfig, current_names, to_dict
from lina_lab.config.history import FILES, PLACES, STAND_INS, added_fields, placed, without_defaults
from lina_lab.records.files import RESULT_FILE
from lina_lab.study.contents import contents_of, fingerprint, places_of
from lina_lab.study.grid import Begun, Plan
from lina_lab.util.errors import ChangedError, StudyError
from lina_lab.util.files import write_atomically
from lina_lab.util.nested import flatten

BASE, FOLDER, CONTENTS = "base", "folder", "contents"
"""Optuna's attributes of the study: what its cells share, its folder's name, what lay in the files and folders that it
reads."""
FOLDER_FILE = "folder.id"
"""Holds the name by which a storage elsewhere knows the study's folder."""
THREADS = "study.resources.threads"


def check_configuration(study: Study, plan: Plan, folder: Path) -> Begun:
    """Note what all cells share, and refuse a plan whose cells share something else.

    Args:
        study: the study in the store.
        plan: the plan as it is now.
        folder: the study's folder.

    Returns:
        What the study was begun with.

    Raises:
        ChangedError: the fields that differ.
    """
    stored, now = study.user_attrs.get(BASE), _shared(plan)
    if stored is None:
        study.set_user_attr("question", plan.study.question)
        study.set_user_attr(CONTENTS, contents_of(places_of(plan.study, plan.base)))
        study.set_user_attr(BASE, stored := now)
    before = current_names(stored)
    flat, threads = flatten(_compared(before)), flatten(_compared(now))
    if THREADS not in flat:
        # A study of version 0.2 or before.
        flat[THREADS] = _trained_with(folder) or threads[THREADS]
    changes = _changes(flat, threads)
    begun = _places(before, plan)
    contents, moved = _contents(study, plan, begun)
    if changes or moved:
        raise ChangedError(
            f"the study {plan.study.name} was run with another configuration: {'; '.join([*changes, *moved])}. Its "
            "cells would not be comparable: make this one a new version (new_version=true), or give it a name of its "
            "own (study.name=...) or another folder (paths.runs=...)",
            [*changes, *moved],
        )
    if contents != study.user_attrs.get(CONTENTS):
        study.set_user_attr(CONTENTS, contents)
    if THREADS not in flatten(stored):
        study.set_user_attr(BASE, _with_threads(stored, flat[THREADS]))
    return Begun(places=begun, contents=contents)


def begun_of(study: Study, plan: Plan) -> Begun:
    """What a study in the store was begun with.

    Args:
        study: the study in the store, of which cells are queued.
        plan: its plan, for the fields that it varies.
    """
    places = _places(current_names(study.user_attrs[BASE]), plan)
    return Begun(places=places, contents=study.user_attrs.get(CONTENTS, {}))


def _places(stored: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    return {field: _at(stored, field) for field in PLACES if field not in _varied(plan)}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    added = added_fields(TrialConfig)
    return [
        f"{field} was {before.get(field, added.get(field, 'absent'))} and is "
        f"{now.get(field, added.get(field, 'absent'))}"
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field)
    ]


def _shared(plan: Plan) -> dict[str, Any]:
    """What all cells of the study have in common, as it is stored and compared."""
    study = to_dict(plan.study)
    study["objectives"] = [objective["metric"] for objective in study["objectives"]]
    shared = {name: study[name] for name in ("objectives", "size_axis", "budget")}
    base = placed(plan.base, {field: _at(plan.base, field) for field in FILES if field not in STAND_INS})
    return _with_threads({**base, "study": shared}, plan.study.resources.threads)


def _with_threads(stored: Mapping[str, Any], threads: int) -> dict[str, Any]:
    return {**stored, "study": {**stored["study"], "resources": {"threads": threads}}}


def _compared(shared: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared by value: no place, which is compared by its contents, and no added field at its default."""
    present = {field: None if _at(shared, field) is None else "given" for field in FILES if field not in STAND_INS}
    return without_defaults(placed(shared, present), added_fields(TrialConfig))


def _trained_with(folder: Path) -> int | None:
    """The number of threads of the cells in a study's folder; None: it is not known, or there are several."""
    results = (json.loads(path.read_text()).get("result") or {} for path in folder.glob(f"*/{RESULT_FILE}"))
    found = {result["threads"] for result in results if result.get("threads") is not None}
    return found.pop() if len(found) == 1 else None


def _varied(plan: Plan) -> set[str]:
    return {field for axis in plan.study.axes.values() for field in axis}


def _at(data: Mapping[str, Any], field: str) -> Any:
    section, _, name = field.partition(".")
    return data.get(section, {}).get(name)


def _contents(study: Study, plan: Plan, begun: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """What lies in the places that the study reads, as it is known from its beginning, and how places differ now."""
    known: dict[str, str] = study.user_attrs.get(CONTENTS, {})
    places = places_of(plan.study, plan.base)
    found, moved = contents_of(places), []
    for key, value in places.items():
        old = str(begun.get(key) or value)
        if key in known:
            if key in found and found[key] != known[key]:
                moved.append(f"{key} is {value}, which holds something else than when the study began")
            elif key not in found and key != "data.path" and value != old:
                moved.append(f"{key} was {old} and is {value}")
        elif normpath(old) != normpath(value) and (key not in found or found[key] != fingerprint(Path(old))):
            unknown = (
                f", and what the study read there is not known: for one command, let {old} be a link to {value}"
                if key in found and not Path(old).exists()
                else ""
            )
            moved.append(f"{key} was {old} and is {value}{unknown}")
    return {**found, **known}, moved


def check_folder(study: Study, folder: Path) -> None:
    """Refuse another folder than other machines have: leases, checkpoints and results are in the folder of runs.

    Raises:
        StudyError: the storage knows the study's folder by another name.
    """
    path, known = folder / FOLDER_FILE, study.user_attrs.get(FOLDER)
    here = path.read_text(errors="replace").strip() if path.is_file() else None
    if known is None:
        here = here or uuid.uuid4().hex
        write_atomically(path, here + "\n")
        study.set_user_attr(FOLDER, here)
    elif here != known:
        raise StudyError(
            f"{folder} is not the folder that the study {study.study_name} runs in: all machines that "
            "work on it must see one folder (paths.runs), on a file system that they share; to begin anew, give "
            "the study a name of its own (study.name=...) or another storage"
        )
