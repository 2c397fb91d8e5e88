"""Optuna 5.0: the storage of a study, numbers of studies and trials, and its tables.

Public: `Study.get_trials`, which makes an object of every row of every table, and `Study.ask` and `Study.tell`, which
leave it to a sampler and to one process which trial is next. Missing: to read some attributes of all trials, to start
or end one given trial, to add thousands of trials at once (`Study.add_trials` adds one after the other), and to change
the parameters of trials.
"""

import json
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState, create_trial
from sqlalchemy import Connection, bindparam, delete, insert, select, text

TRIALS = select(models.TrialModel.trial_id, models.TrialModel.state, models.TrialModel._datetime_start_utc).order_by(
    models.TrialModel.number
)
ATTRIBUTES = (
    "SELECT a.trial_id, a.key, a.value_json FROM trial_user_attributes a JOIN trials t ON t.trial_id = a.trial_id "
    "WHERE t.study_id = :study"
)
NAMED = " AND a.key IN :names"
VALUES = (
    "SELECT v.trial_id, v.value FROM trial_values v JOIN trials t ON t.trial_id = v.trial_id "
    "WHERE t.study_id = :study ORDER BY v.objective"
)
WITHOUT_PARAMS = (
    "SELECT t.trial_id FROM trials t JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = :name "
    "LEFT JOIN trial_params p ON p.trial_id = t.trial_id WHERE t.study_id = :study AND p.trial_id IS NULL LIMIT 1"
)


@dataclass(frozen=True)
class TrialRow:
    """The part of one of Optuna's trials that the queue reads."""

    trial_id: int
    state: TrialState
    attributes: dict[str, Any]
    values: list[float] | None
    started: datetime | None = None
    """When a worker took it, with its time zone."""


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage that a study writes to (`Study._storage`), with the cache that Optuna puts before a database."""
    return study._storage


def id_of(study: optuna.Study) -> int:
    """The study's number in its storage (`Study._study_id`)."""
    return study._study_id


def trial_id_of(trial: optuna.trial.FrozenTrial) -> int:
    """The storage's number of a trial (`_trial_id`)."""
    return int(trial._trial_id)


def name_metrics(study: optuna.Study, names: Sequence[str]) -> None:
    """Give the objectives names, unless they have them (`Study.set_metric_names`, which warns that it is new)."""
    if study.metric_names != list(names):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(names))


def database_of(study: optuna.Study) -> RDBStorage | None:
    """The database of a study, from under Optuna's cache (`_CachedStorage._backend`); None for another storage."""
    storage = study._storage
    backend = getattr(storage, "_backend", storage)
    return backend if isinstance(backend, RDBStorage) else None


def trial_rows(study: optuna.Study, attributes: Sequence[str] | None = None) -> list[TrialRow]:
    """All trials of a study in their order, with their user attributes (`FrozenTrial._trial_id`).

    A database is read with three plain queries: `get_trials` takes seconds for a large study, again at each look for
    all trials that have not ended.

    Args:
        study: the study.
        attributes: names of the attributes that are read; None: all.
    """
    database = database_of(study)
    if database is not None:
        return _rows_of_database(database, id_of(study), attributes)
    return [
        TrialRow(
            trial_id=trial._trial_id,
            state=trial.state,
            attributes={k: v for k, v in trial.user_attrs.items() if attributes is None or k in attributes},
            values=trial.values,
            started=None if trial.datetime_start is None else trial.datetime_start.astimezone(),
        )
        for trial in study.get_trials(deepcopy=False)
    ]


def _rows_of_database(storage: RDBStorage, study_id: int, attributes: Sequence[str] | None) -> list[TrialRow]:
    """Optuna's tables `trials`, `trial_user_attributes` and `trial_values` (schema version 12)."""
    of_trial: dict[int, dict[str, Any]] = defaultdict(dict)
    values: dict[int, list[float]] = defaultdict(list)
    wanted, asked = text(ATTRIBUTES), dict[str, Any](study=study_id)
    if attributes is not None:
        wanted = text(ATTRIBUTES + NAMED).bindparams(bindparam("names", expanding=True))
        asked["names"] = list(attributes)
    with storage.engine.connect() as connection:
        trials = connection.execute(TRIALS.where(models.TrialModel.study_id == study_id)).all()
        for trial_id, name, value in connection.execute(wanted, asked):
            of_trial[trial_id][name] = json.loads(value)
        for trial_id, value in connection.execute(text(VALUES), {"study": study_id}):
            values[trial_id].append(value)
    return [
        # The table holds UTC without saying so.
        TrialRow(i, state, of_trial[i], values.get(i), None if start is None else start.replace(tzinfo=UTC))
        for i, state, start in trials
    ]


def intermediate_values(study: optuna.Study) -> dict[int, dict[int, float]]:
    """Trial (`_trial_id`) -> step -> value, for all trials of a study that have reported any.

    A database is read with one plain query, as in `trial_rows`.
    """
    database = database_of(study)
    if database is None:
        trials = study.get_trials(deepcopy=False)
        return {one._trial_id: dict(one.intermediate_values) for one in trials if one.intermediate_values}
    found: dict[int, dict[int, float]] = defaultdict(dict)
    table, trial = models.TrialIntermediateValueModel, models.TrialModel
    columns = select(table.trial_id, table.step, table.intermediate_value, table.intermediate_value_type)
    wanted = columns.join(trial, trial.trial_id == table.trial_id).where(trial.study_id == id_of(study))
    with database.engine.connect() as connection:
        for trial_id, step, value, kind in connection.execute(wanted.order_by(table.step)):
            found[trial_id][step] = table.stored_repr_to_intermediate_value(value, kind)
    return dict(found)


def add_waiting(
    study: optuna.Study,
    attributes: Sequence[dict[str, Any]],
    params: Sequence[Mapping[str, Any]] = (),
    distributions: Mapping[str, BaseDistribution] = MappingProxyType({}),
) -> list[int]:
    """Add a waiting trial for each mapping of user attributes; returns Optuna's numbers of them (`_trial_id`).

    A database gets all rows or none, in one transaction: Optuna's own way takes 8 ms for each trial.

    Args:
        study: the study.
        attributes: user attributes of each trial.
        params: parameters of each trial; empty: none has any.
        distributions: parameter -> its distribution.
    """
    params = params or [{} for _ in attributes]
    database = database_of(study)
    if database is None:
        new = [
            create_trial(
                state=TrialState.WAITING,
                user_attrs=dict(one),
                params=dict(own),
                distributions={name: distributions[name] for name in own},
            )
            for one, own in zip(attributes, params, strict=True)
        ]
        return [study._storage.create_new_trial(study._study_id, template_trial=one) for one in new]
    if not attributes:
        return []
    study_id, trial = id_of(study), models.TrialModel
    with database.engine.begin() as connection:
        _hold(connection, study_id)
        first = connection.execute(text("SELECT COUNT(*) FROM trials WHERE study_id = :study"), {"study": study_id})
        start = first.scalar_one()
        rows = [
            {"number": start + i, "study_id": study_id, "state": TrialState.WAITING} for i in range(len(attributes))
        ]
        connection.execute(insert(trial), rows)
        numbered = select(trial.number, trial.trial_id).where(trial.study_id == study_id, trial.number >= start)
        ids = {number: trial_id for number, trial_id in connection.execute(numbered)}
        held = [
            {"trial_id": ids[start + i], "key": key, "value_json": json.dumps(value)}
            for i, one in enumerate(attributes)
            for key, value in one.items()
        ]
        connection.execute(insert(models.TrialUserAttributeModel), held)
        _insert_params(connection, {ids[start + i]: own for i, own in enumerate(params)}, distributions)
    return [ids[row["number"]] for row in rows]


def any_without_params(study: optuna.Study, attribute: str) -> bool:
    """Whether a database has a trial of the study with a user attribute and without parameters; else False."""
    database = database_of(study)
    if database is None:
        return False
    with database.engine.connect() as connection:
        found = connection.execute(text(WITHOUT_PARAMS), {"study": id_of(study), "name": attribute})
        return found.first() is not None


def rewrite_params(
    study: optuna.Study, params: Mapping[int, Mapping[str, Any]], distributions: Mapping[str, BaseDistribution]
) -> None:
    """Give trials other parameters or distributions, whatever their state, in a database; nothing elsewhere.

    Optuna has no call for it: a distribution belongs to a trial, and its functions leave out a parameter whose
    distributions differ. An open study that has read trials which have ended goes on to show what it has read.

    Args:
        study: the study.
        params: trial (`_trial_id`) -> its parameters.
        distributions: parameter -> its distribution.
    """
    database, held = database_of(study), models.TrialParamModel
    if database is None or not params:
        return
    with database.engine.begin() as connection:
        _hold(connection, id_of(study))
        theirs = delete(held).where(held.trial_id == bindparam("trial"))
        connection.execute(theirs, [{"trial": trial_id} for trial_id in params])
        _insert_params(connection, params, distributions)


def _hold(connection: Connection, study_id: int) -> None:
    """As Optuna does: whoever numbers trials holds the study's row (SQLite: the whole database)."""
    connection.execute(select(models.StudyModel.study_id).filter_by(study_id=study_id).with_for_update())


def _insert_params(
    connection: Connection, params: Mapping[int, Mapping[str, Any]], distributions: Mapping[str, BaseDistribution]
) -> None:
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(distributions[name]),
        }
        for trial_id, own in params.items()
        for name, value in own.items()
    ]
    if rows:
        connection.execute(insert(models.TrialParamModel), rows)
