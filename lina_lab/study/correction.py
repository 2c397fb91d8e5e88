"""A study of which nothing is trained yet may begin again: a first try that failed does not take the study's name."""

from collections.abc import Iterable
from pathlib import Path

import optuna

from lina_lab.records.files import CHECKPOINTS
from lina_lab.records.status import CellStatus
from lina_lab.study.cells import CELL, STATUS, CellState, state_of
from lina_lab.study.grid import Begun, Plan
from lina_lab.study.identity import FOLDER, check_configuration
from lina_lab.study.lease import StaleLeases
from lina_lab.util.compat.optuna import storage_of, trial_rows
from lina_lab.util.errors import ChangedError

ABANDONED = "abandoned"
"""Optuna's attribute of the study: hashes of the cells of configurations that were corrected."""


def open_study(plan: Plan, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """The study in the storage, made if it is not there."""
    return optuna.create_study(
        study_name=plan.study.name,
        storage=storage,
        # Every trial is enqueued, so the sampler decides nothing; the default one would import more.
        sampler=optuna.samplers.RandomSampler(seed=0),
        directions=[objective.direction for objective in plan.study.objectives],
        load_if_exists=True,
    )


def begun_or_corrected(
    study: optuna.Study, plan: Plan, folder: Path, states: Iterable[CellState], *, corrects: bool
) -> tuple[optuna.Study, Begun, str]:
    """Compare a plan with the study in the store, and begin the study again where that loses nothing.

    Args:
        study: the study in the store.
        plan: the plan as it is now.
        folder: the study's folder.
        states: states of the study's cells.
        corrects: the command may begin the study again.

    Returns:
        The study, what it was begun with, and a sentence where it begins again.

    Raises:
        ChangedError: the configuration is another one, and cells are trained or under way.
    """
    try:
        return study, check_configuration(study, plan, folder), ""
    except ChangedError as error:
        if not corrects or any(_holds_work(state, folder / state.config_hash) for state in states):
            raise
        changes = "; ".join(error.changes)
    attributes = study.user_attrs
    abandoned = [*attributes.get(ABANDONED, []), *(state.config_hash for state in states)]
    # Other objectives need another study of Optuna's; this one's trials hold nothing but failures.
    storage = storage_of(study)
    optuna.delete_study(study_name=plan.study.name, storage=storage)
    study = open_study(plan, storage)
    study.set_user_attr(ABANDONED, list(dict.fromkeys(abandoned)))
    if FOLDER in attributes:
        study.set_user_attr(FOLDER, attributes[FOLDER])
    sentence = f"no cell of the study {plan.study.name} was trained, so it begins again: {changes}"
    return study, check_configuration(study, plan, folder), sentence


def under_way(study: optuna.Study, folder: Path) -> bool:
    """Whether a cell of a study in the store is trained or under way, so that it keeps its configuration."""
    rows = map(state_of, trial_rows(study, (CELL, STATUS)))
    latest = {state.config_hash: state for state in rows if state is not None}
    return any(_holds_work(state, folder / state.config_hash) for state in latest.values())


def _holds_work(state: CellState, folder: Path) -> bool:
    """Whether a cell has a result, is being trained, or has saved what it has trained without having failed."""
    if state.status is CellStatus.RUNNING:
        lease = StaleLeases().acquire(folder)
        if lease is None:
            return True
        lease.release()
    saved = state.status is not CellStatus.FAILED and any(folder.glob(CHECKPOINTS))
    return saved or state.status.final
