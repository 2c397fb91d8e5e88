"""Whether a study in the store is the one of the command: its configuration and its folder."""

import uuid
from pathlib import Path
from typing import Any

from optuna import Study

from lina_lab.config import current_names, to_dict
from lina_lab.study.grid import Plan
from lina_lab.util.errors import ChangedError, StudyError
from lina_lab.util.files import write_atomically
from lina_lab.util.nested import flatten

BASE, FOLDER = "base", "folder"
"""Optuna's attributes of the study: what its cells share, and its folder's name."""
FOLDER_FILE = "folder.id"
"""Holds the name by which a storage elsewhere knows the study's folder."""


def check_configuration(study: Study, plan: Plan) -> None:
    """Note what all cells share, and refuse a plan whose cells share something else.

    Raises:
        ChangedError: the fields that differ.
    """
    stored = study.user_attrs.get(BASE)
    if stored is None:
        study.set_user_attr("question", plan.study.question)
        study.set_user_attr(BASE, _shared(plan))
        return
    before, now = flatten(current_names(stored)), flatten(_shared(plan))
    changes = [
        f"{field} was {before.get(field, 'absent')} and is {now.get(field, 'absent')}"
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field)
    ]
    if changes:
        raise ChangedError(
            f"the study {plan.study.name} was run with another configuration: {'; '.join(changes)}. Its cells "
            "would not be comparable: make this one a new version (new_version=true), or give it a name of its own "
            "(study.name=...) or another folder (paths.runs=...)"
        )


def _shared(plan: Plan) -> dict[str, Any]:
    """What all cells of the study have in common, as it is stored and compared."""
    study = to_dict(plan.study)
    study["objectives"] = [objective["metric"] for objective in study["objectives"]]
    return {**plan.base, "study": {name: study[name] for name in ("objectives", "size_axis", "budget")}}


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
