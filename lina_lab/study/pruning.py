"""Reports what cells measure while they train to the queue, and gives up those that Optuna's pruner calls worse.

A pruner compares like with like: cells of the comparison of one size (and one stage), of all variants and seeds. It is
asked in an Optuna study in memory that holds these alone, made anew from the queue each time, so its answer depends on
the state of the queue and on nothing else. That state depends on the order in which cells train.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from lina_lab.config.pruning import HALVING, PruningConfig
from lina_lab.decisions.tuning import Direction
from lina_lab.records.files import PRUNE_FILE
from lina_lab.records.record import Record
from lina_lab.records.result import Progress, TrialResult
from lina_lab.records.status import CellStatus, Phase, TrialStatus
from lina_lab.study.cells import CELL, STATUS, state_of
from lina_lab.study.contest import given_up, is_source, peers
from lina_lab.study.cost import parameters
from lina_lab.study.grid import Cell, Plan
from lina_lab.util.compat.optuna import intermediate_values, storage_of, trial_id_of, trial_rows
from lina_lab.util.errors import fault_of, first_line
from lina_lab.util.files import write_atomically
from lina_lab.util.signals import defer_signals

if TYPE_CHECKING:
    from lina_lab.study.store import Claim, Store

TRIAL_STATES = {CellStatus.DONE: TrialState.COMPLETE, CellStatus.PRUNED: TrialState.PRUNED}
RUNGS_A_STEP = 64
"""Rungs that one validation may reach at most."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a pruner knows of a cell."""

    status: CellStatus
    values: Mapping[int, float]
    """Images seen -> main objective, in their order."""


def gives_up(pruning: PruningConfig, direction: Direction, courses: Sequence[Course], own: int, budget: int) -> bool:
    """Whether Optuna's pruner gives up a cell after its last value.

    Args:
        pruning: the rule.
        direction: that of the main objective.
        courses: cells that are compared, in an order that stays: Hyperband assigns brackets by it.
        own: index of the cell, which has a value.
        budget: its images.
    """
    values = courses[own].values
    pruner = pruning.pruner(min(values), budget)
    replays = pruning.rule in HALVING
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="cells", sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner, direction=direction
    )
    for index, course in enumerate(courses):
        state = TrialState.RUNNING if replays or index == own else TRIAL_STATES.get(course.status, TrialState.FAIL)
        known = {} if replays else dict(course.values)
        # Optuna wants it, and no pruner reads it.
        value = 0.0 if state is TrialState.COMPLETE else None
        study.add_trial(optuna.trial.create_trial(state=state, value=value, intermediate_values=known))
    if replays:
        for index, course in enumerate(courses):
            if index != own:
                _replay(study, index, course.values)
        *before, (step, value) = values.items()
        _replay(study, own, dict(before))
        _report(study, own, step, value)
    return bool(pruner.prune(study, _trial(study, own)))


def _replay(study: optuna.Study, index: int, values: Mapping[int, float]) -> None:
    """Let a pruner note the rungs that a trial has reached, whatever it says of the trial."""
    for step, value in values.items():
        _report(study, index, step, value)
        for _ in range(RUNGS_A_STEP):
            if not study.pruner.prune(study, _trial(study, index)):
                break


def _trial(study: optuna.Study, index: int) -> optuna.trial.FrozenTrial:
    # `Study.trials` copies all of them each time.
    return study.get_trials(deepcopy=False)[index]


def _report(study: optuna.Study, index: int, step: int, value: float) -> None:
    storage_of(study).set_trial_intermediate_value(trial_id_of(_trial(study, index)), step, value)


def can_be_pruned(cell: Cell, plan: Plan) -> bool:
    """Whether a study may give up a cell: one of the comparison that no other cell starts from."""
    return cell.phase is Phase.COMPARISON and not is_source(plan, cell)


def courses_of(
    plan: Plan, rows: Iterable[tuple[str, CellStatus, Mapping[int, float]]], cell: Cell, images: int
) -> tuple[list[Course], int]:
    """The cells that a cell is compared with, itself included, and its index.

    Args:
        plan: the study.
        rows: config hash, status and values of each attempt at a cell, in the order in which they were queued. Values
            of several attempts at one cell are joined: each goes on where the one before was stopped.
        cell: the cell.
        images: images that it has seen. Values of an earlier attempt that lie beyond do not count.
    """
    like = {c.config_hash for c in plan.cells if can_be_pruned(c, plan) and peers(plan, c) == peers(plan, cell)}
    found: dict[str, Course] = {}
    for config_hash, status, values in rows:
        if config_hash in like:
            before = found[config_hash].values if config_hash in found else {}
            found[config_hash] = Course(status=status, values=dict(sorted({**before, **values}.items())))
    mine = found[cell.config_hash].values
    own = {seen: value for seen, value in mine.items() if seen <= images}
    found[cell.config_hash] = Course(status=CellStatus.RUNNING, values=own)
    return list(found.values()), list(found).index(cell.config_hash)


class Watch:
    """Follows a cell that trains: reports the main objective at each validation, and gives the cell up if so decided.

    What the queue does not take at once is reported with the next validation: training does not wait for it.

    Args:
        store: the queue.
        claim: the cell.
        tell: called with a line where the queue does not answer.
    """

    def __init__(self, store: "Store", claim: "Claim", tell: Callable[[str], None]) -> None:
        self.store, self.claim, self.tell = store, claim, tell
        self.folder = store.folder / claim.cell.config_hash
        self._seen: int | None = None
        self._unsent: dict[int, float] = {}

    def follow(self, progress: Progress) -> None:
        """Take note of the progress of the cell; does something after a validation only."""
        if progress.validation is None or progress.validated_images in (None, self._seen):
            return
        self._seen = images = progress.validated_images
        value = progress.validation.get(self.store.plan.study.objective)
        if images is None or value is None:
            return
        self._unsent[images] = value
        try:
            self._send()
            self._judge(images, value)
        except Exception as error:
            fault = fault_of(error, self.store.runs)
            if fault is None or not fault.passes:
                raise
            self.tell(f"the queue takes no validation now, and gets it with the next one: {first_line(error)}")

    def ended(self, result: TrialResult) -> TrialResult:
        """The result of the cell, with the reason where it was given up."""
        if result.status is TrialStatus.PRUNED and (self.folder / PRUNE_FILE).exists():
            return TrialResult(**{**vars(result), "error": (self.folder / PRUNE_FILE).read_text().strip()})
        return result

    @defer_signals()
    def _send(self) -> None:
        storage = storage_of(self.store.study)
        for images in list(self._unsent):
            # Another worker may have taken over the cell while this one was paused, see `cells.end_trial`.
            with suppress(UpdateFinishedTrialError):
                storage.set_trial_intermediate_value(self.claim.trial_id, images, self._unsent[images])
            del self._unsent[images]

    @defer_signals()
    def _judge(self, images: int, value: float) -> None:
        plan, cell = self.store.plan, self.claim.cell
        pruning = plan.study.pruning
        if pruning is None or pruning.racing is not None or not can_be_pruned(cell, plan):
            return
        # A loss that is not finite is for the trial itself, which diverges.
        if images >= cell.config.images_seen or not isfinite(value):
            return
        reported = intermediate_values(self.store.study)
        rows = [
            (state.config_hash, state.status, reported.get(row.trial_id, {}))
            for row in trial_rows(self.store.study, (CELL, STATUS))
            if (state := state_of(row)) is not None
        ]
        courses, own = courses_of(plan, rows, cell, images)
        if gives_up(pruning, plan.study.objectives[0].direction, courses, own, cell.config.images_seen):
            give_up(self.folder, f"given up at {images:,} images by {pruning.rule}: {plan.study.objective} {value:.4g}")


def never_trained(plan: Plan, cell: Cell) -> Record | None:
    """The record of a cell that racing gives up before it is trained; None for any other one."""
    reason = given_up(plan, cell)
    if reason is None:
        return None
    total = parameters(cell.config.model)
    result = TrialResult(
        status=TrialStatus.PRUNED,
        images_seen=0,
        steps=0,
        metrics={},
        parameters=total,
        trainable_parameters=total,
        images_per_second=0.0,
        fit_seconds=0.0,
        peak_memory_mib=0.0,
        error=reason,
    )
    return Record(
        config_hash=cell.config_hash,
        axes=cell.axes,
        seed=cell.config.seed,
        status=CellStatus.PRUNED,
        mlflow_run="",
        result=result,
        error=reason,
    )


def give_up(folder: Path, reason: str) -> None:
    """Ask whoever trains the cell in a folder to end, now or after it is taken up again."""
    write_atomically(folder / PRUNE_FILE, reason + "\n")
