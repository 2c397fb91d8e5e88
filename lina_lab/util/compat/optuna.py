"""Optuna 5.0: the storage of a study, numbers of studies and trials, and its tables.

Public: `Study.get_trials`, which makes an object of every row of every table, and `Study.ask` and `Study.tell`, which
leave it to a sampler and to one process which trial is next. Missing: to read some attributes of all trials, and to
start or end one given trial.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy import bindparam, text

TRIALS = "SELECT trial_id, state FROM trials WHERE study_id = :study ORDER BY number"
ATTRIBUTES = (
    "SELECT a.trial_id, a.key, a.value_json FROM trial_user_attributes a JOIN trials t ON t.trial_id = a.trial_id "
    "WHERE t.study_id = :study AND a.key IN :names"
)
VALUES = (
    "SELECT v.trial_id, v.value FROM trial_values v JOIN trials t ON t.trial_id = v.trial_id "
    "WHERE t.study_id = :study ORDER BY v.objective"
)


@dataclass(frozen=True)
class TrialRow:
    """The part of one of Optuna's trials that the queue reads."""

    trial_id: int
    state: TrialState
    attributes: dict[str, Any]
    values: list[float] | None


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage that a study writes to (`Study._storage`), with the cache that Optuna puts before a database."""
    return study._storage


def id_of(study: optuna.Study) -> int:
    """The study's number in its storage (`Study._study_id`)."""
    return study._study_id


def database_of(study: optuna.Study) -> RDBStorage | None:
    """The database of a study, from under Optuna's cache (`_CachedStorage._backend`); None for another storage."""
    storage = study._storage
    backend = getattr(storage, "_backend", storage)
    return backend if isinstance(backend, RDBStorage) else None


def trial_rows(study: optuna.Study, attributes: Sequence[str]) -> list[TrialRow]:
    """All trials of a study in their order, with some of their user attributes (`FrozenTrial._trial_id`).

    A database is read with three plain queries: `get_trials` takes seconds for a large study, again at each look for
    all trials that have not ended.
    """
    database = database_of(study)
    if database is not None:
        return _rows_of_database(database, id_of(study), attributes)
    return [
        TrialRow(
            trial._trial_id, trial.state, {k: v for k, v in trial.user_attrs.items() if k in attributes}, trial.values
        )
        for trial in study.get_trials(deepcopy=False)
    ]


def _rows_of_database(storage: RDBStorage, study_id: int, attributes: Sequence[str]) -> list[TrialRow]:
    """Optuna's tables `trials`, `trial_user_attributes` and `trial_values` (schema version 12)."""
    names: Any = bindparam("names", list(attributes), expanding=True)
    of_trial: dict[int, dict[str, Any]] = defaultdict(dict)
    values: dict[int, list[float]] = defaultdict(list)
    with storage.engine.connect() as connection:
        trials = connection.execute(text(TRIALS), {"study": study_id}).all()
        for trial_id, name, value in connection.execute(text(ATTRIBUTES).bindparams(names), {"study": study_id}):
            of_trial[trial_id][name] = json.loads(value)
        for trial_id, value in connection.execute(text(VALUES), {"study": study_id}):
            values[trial_id].append(value)
    return [TrialRow(i, TrialState[state], of_trial[i], values.get(i)) for i, state in trials]
