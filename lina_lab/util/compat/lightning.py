"""Lightning 2.6: the averaged model of its `WeightAveraging` callback, its loops' progress, and its profiled actions.

Public: the callback swaps the averaged weights in for every validation. Missing: to reach the averaged model, to swap
at another time, to give the callback a model of one's own, to resume with epochs of another length, and names for the
actions of a profiler.
"""

from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import AveragedModel

FETCH, TRAIN = "[_TrainingEpochLoop].train_dataloader_next", "run_training_batch"
"""What Lightning calls waiting for data, and forward, backward and update, in its profilers."""


def averaged_model(callback: WeightAveraging) -> AveragedModel:
    """The averaged model that the callback keeps (`_average_model`).

    Raises:
        RuntimeError: training has not started.
    """
    if callback._average_model is None:
        raise RuntimeError("the averaged model exists from the start of training on")
    return callback._average_model


def averaged_module(callback: WeightAveraging) -> L.LightningModule:
    """The module with the averaged weights."""
    return cast(L.LightningModule, averaged_model(callback).module)


def set_averaged_model(callback: WeightAveraging, model: AveragedModel) -> None:
    """Have the callback keep this model (`_average_model`), in place of the copy that it makes itself."""
    callback._average_model = model


def swap_models(callback: WeightAveraging, module: L.LightningModule) -> None:
    """Exchange the module's weights and the averaged ones (`_swap_models`)."""
    cast(Any, callback)._swap_models(module)


def fit_loop_after(fit_loop: dict[str, Any], steps: int, epoch_steps: int, accumulate_grad_batches: int) -> None:
    """Set the saved progress of the loops that train to what a checkpoint holds that was saved after some steps.

    Between two epochs it is what Lightning saves in `on_train_epoch_end`, and within one what it saves in
    `on_train_batch_end`. It resumes each by counts alone (`update_restart_stage` of both loops).

    Args:
        fit_loop: `loops.fit_loop` of a checkpoint, changed in place.
        steps: optimizer steps taken.
        epoch_steps: optimizer steps of an epoch.
        accumulate_grad_batches: batches of a step.
    """
    epochs, within = divmod(steps, epoch_steps)
    begun = epochs + (within > 0)
    ended = epochs if within else epochs - 1
    progress = {"ready": begun, "started": begun, "processed": epochs, "completed": ended}
    fit_loop["epoch_progress"] = {"total": dict(progress), "current": dict(progress)}
    batches = {"total": steps * accumulate_grad_batches, "current": (within or epoch_steps) * accumulate_grad_batches}
    # The hook comes before the last batch counts as completed.
    missing = 1 if within else 0
    fit_loop["epoch_loop.batch_progress"] = {
        **{name: {**dict.fromkeys(STAGES, count), "completed": count - missing} for name, count in batches.items()},
        "is_last_batch": not within,
    }
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps - missing
    validation = fit_loop["epoch_loop.val_loop.batch_progress"]
    if within:
        validation["total"] = dict.fromkeys(validation["total"], 0)


STAGES = ("ready", "started", "processed", "completed")
"""What Lightning counts of each batch and epoch, in this order."""
