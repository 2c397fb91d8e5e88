"""What a trial starts from (`TrialConfig.start`): the weights of a source, or all of its state.

A source is read before the trial's first step alone. Once the trial has a checkpoint of its own it resumes from that,
and needs its source no more, unless that is also its teacher.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lina_lab.config import TrialConfig, from_stored, to_dict
from lina_lab.config.continuation import differences
from lina_lab.config.schedules import problem_of_going_on
from lina_lab.config.teacher import teacher_misfit
from lina_lab.model import LINA
from lina_lab.model.inherit import Inherited, inherit, misfit
from lina_lab.model.saved import Saved, opened, read_saved, saved_config
from lina_lab.records.checkpoints import is_whole, weights_files
from lina_lab.records.weights import Kind, Located, locate
from lina_lab.training.checkpoints import Checkpoints, newest
from lina_lab.training.optimizer_state import LAYOUT, State
from lina_lab.util.compat.lightning import fit_loop_after

NO_STATE = "keeps weights alone when it is done (checkpoint.finished=weights)"
"""How a sentence on a source without the optimizer's state ends."""


@dataclass(frozen=True)
class Start:
    """What a trial starts from. One of `saved` and `checkpoint` is there."""

    name: str
    """The source, for sentences."""
    saved: Saved | None = None
    """Weights to take into the model."""
    moments: tuple[State, ...] = ()
    """The optimizer's state, by parameter names, of which those of the parameters that are taken are taken."""
    checkpoint: Path | None = None
    """The checkpoint to go on from as if its training had never ended."""

    def give(self, model: LINA, config: TrialConfig) -> Inherited | None:
        """Put the weights into a model that has just been initialized; None: they come with the checkpoint.

        Raises:
            ValueError: see `inherit`.
        """
        if self.saved is None:
            return None
        try:
            return inherit(model, self.saved.weights, self.saved.config, config.start)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def note(self, inherited: Inherited | None) -> str:
        """What became of the source, as a sentence for the trial's result."""
        if inherited is None:
            return f"goes on with the training of {self.name}"
        assumed = "".join(f"; assumed of it: {sentence}" for sentence in (self.saved.assumptions if self.saved else ()))
        return f"started from {self.name}: {inherited}{assumed}"


def initial(config: TrialConfig, folder: Path) -> Start | None:
    """Read what a trial starts from, before it has a checkpoint of its own; None: its weights are drawn.

    Args:
        config: the trial.
        folder: the trial's; the cells of its study are beside it.

    Raises:
        ValueError: the source is missing, damaged or not the one that was planned, or it cannot be gone on with.
    """
    if not config.start.given:
        return None
    located, name = _source(config, folder), _name(config)
    if config.start.state == "weights":
        return Start(name, saved=_read(config, located))
    _check_kind(config, located)
    saved = _read(config, located)
    _check_complete(config, saved.checkpoint)
    if config.start.state == "optimizer":
        return Start(name, saved=saved, moments=_moments(config, saved, name))
    if (problem := continuation_problem(config, saved.checkpoint)) is not None:
        raise ValueError(f"{name}: {problem}")
    return Start(name, checkpoint=located.path)


def planned_problem(config: TrialConfig, runs: Path = Path("runs")) -> str | None:
    """Why a trial cannot start from the weights that `start.source` names, as a sentence; None: it can.

    No tensor is made, and a checkpoint's contents are not verified: that is done when the trial starts.

    Args:
        config: the trial.
        runs: the folder of all results.
    """
    assert config.start.source is not None
    try:
        located = _planned(config, runs)
        if config.start.state != "weights":
            _check_kind(config, located)
            _check_complete(config, opened(located)[0])
        if config.start.state == "training":
            problem = continuation_problem(config, opened(located)[0])
        else:
            source = saved_config(located, like=config.model)
            problem = misfit(config.model, source, config.start) or teacher_misfit(config.start, config.model, source)
    except ValueError as error:
        return f"start.source: {error}"
    return None if problem is None else f"start.source={config.start.source}: {problem}"


def stage_problem(config: TrialConfig, source: TrialConfig) -> str | None:
    """Why a trial cannot start from a cell of its study once that is done, as a sentence; None: it can.

    Args:
        config: the trial.
        source: the trial of that cell.
    """
    if config.start.state != "weights" and source.checkpoint.finished == "weights":
        return f"start.state={config.start.state} needs the optimizer's state: the source {NO_STATE}"
    if config.start.state == "training":
        return continuation_problem(
            config, {"hyper_parameters": to_dict(source), "global_step": source.max_steps, "layout": LAYOUT}
        )
    if config.start.state == "optimizer" and source.optimizer.name != config.optimizer.name:
        return f"start.state=optimizer needs the source's optimizer.name={source.optimizer.name}"
    return misfit(config.model, source.model, config.start)


def teacher(config: TrialConfig, folder: Path) -> LINA:
    """The source's model, frozen and in eval mode.

    Args:
        config: the trial.
        folder: see `initial`.

    Raises:
        ValueError: see `initial`.
    """
    model: LINA = _read(config, _source(config, folder)).model().requires_grad_(False)
    return model


def continuation_problem(config: TrialConfig, checkpoint: Mapping[str, Any]) -> str | None:
    """Why a trial cannot go on with the training that a checkpoint is of, as a sentence; None: it can."""
    source = from_stored(TrialConfig, checkpoint["hyper_parameters"])
    if changed := differences(config, source):
        return f"start.state=training goes on with the same trial, and this one differs ({'; '.join(changed)})"
    steps = int(checkpoint["global_step"])
    images = steps * config.data.batch_size
    if steps >= config.max_steps:
        return f"it has trained {images:,} images, and trainer.max_images={config.trainer.max_images} asks for no more"
    return problem_of_going_on(config, source, images)


def go_on(
    checkpoint: dict[str, Any], config: TrialConfig, *, accumulate_grad_batches: int, callbacks: set[str]
) -> None:
    """Make the checkpoint of a source one of this trial, as if it had trained these steps itself.

    The source's last validation may have come early, at its end: the loops, and the measurements of generated images,
    are set to where this trial is between its own validations. Metrics of the source stay with it.

    Args:
        checkpoint: changed in place.
        config: the trial.
        accumulate_grad_batches: micro-batches of a step.
        callbacks: keys of the trial's callbacks; others have nothing to resume.
    """
    if (problem := continuation_problem(config, checkpoint)) is not None:
        raise ValueError(problem)
    steps = int(checkpoint["global_step"])
    fit_loop_after(checkpoint["loops"]["fit_loop"], steps, config.epoch_steps, accumulate_grad_batches)
    kept = {name: state for name, state in checkpoint["callbacks"].items() if name in callbacks}
    kept[Checkpoints.state_key] |= {"metrics": {}, "waiting": [], "best": None}
    for state in kept.values():
        if "seen" in state:
            state["seen"] = _measured_at(config, steps)
    checkpoint["callbacks"] = kept


def _measured_at(config: TrialConfig, steps: int) -> int:
    """Images seen when generated images were last measured (`callbacks.evaluation`), had this trial taken the steps."""
    every, seen = config.sampling.quality_every_images, 0
    epoch = config.epoch_steps * config.data.batch_size
    for images in range(epoch, steps * config.data.batch_size + 1, epoch):
        seen = seen if every is None or images // every == seen // every else images
    return seen


def _source(config: TrialConfig, folder: Path) -> Located:
    """Where the source is.

    Raises:
        ValueError: there is none, or another one than was planned.
    """
    start = config.start
    if start.cell is not None:
        checkpoint, problems = newest(folder.parent / start.cell)
        alone = (path for path in reversed(weights_files(folder.parent / start.cell).values()) if is_whole(path))
        path = next(alone, None) if checkpoint is None else checkpoint.path
        if path is None:
            why = f": {problems[0]}" if problems else ""
            raise ValueError(f"{_name(config)} has no whole checkpoint beside this cell's folder{why}")
        return locate(str(path))
    return _planned(config, folder.parent.parent)


def _planned(config: TrialConfig, runs: Path) -> Located:
    """Where the weights of `start.source` are.

    Raises:
        ValueError: there are none, or others than were planned.
    """
    start = config.start
    assert start.source is not None
    located = locate(start.source, runs)
    if start.sha256 is not None and located.sha256 != start.sha256:
        raise ValueError(f"the weights in {start.source} changed since the plan: put them back, or plan a new study")
    return located


def _check_kind(config: TrialConfig, located: Located) -> None:
    if located.kind != Kind.CHECKPOINT:
        raise ValueError(f"start.state={config.start.state} needs a checkpoint: {_name(config)} holds weights alone")


def _check_complete(config: TrialConfig, checkpoint: Mapping[str, Any]) -> None:
    if "optimizer_states" not in checkpoint:
        raise ValueError(f"start.state={config.start.state} needs the optimizer's state: {_name(config)} {NO_STATE}")


def _read(config: TrialConfig, located: Located) -> Saved:
    saved = read_saved(located, config.start.weights, like=config.model)
    if config.start.cell is not None:
        source = from_stored(TrialConfig, saved.checkpoint["hyper_parameters"])
        if (steps := int(saved.checkpoint["global_step"])) < source.max_steps:
            raise ValueError(
                f"{_name(config)} has trained {steps * source.data.batch_size:,} of {source.images_seen:,} images: it "
                "must end first"
            )
    return saved


def _name(config: TrialConfig) -> str:
    return config.start.source or f"the cell {config.start.cell}"


def _moments(config: TrialConfig, saved: Saved, name: str) -> tuple[State, ...]:
    then = from_stored(TrialConfig, saved.checkpoint["hyper_parameters"]).optimizer.name
    if saved.checkpoint.get("layout") != LAYOUT:
        raise ValueError(f"start.state=optimizer: {name} was written by another version of lina_lab")
    if then != config.optimizer.name:
        raise ValueError(
            f"start.state=optimizer: {name} was trained with optimizer.name={then}, and this trial has "
            f"{config.optimizer.name}"
        )
    return tuple(saved.checkpoint["optimizer_states"])
