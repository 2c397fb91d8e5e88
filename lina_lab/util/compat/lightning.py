"""Lightning 2.6: the averaged model of its `WeightAveraging` callback, and the names of its profiled actions.

Public: the callback swaps the averaged weights in for every validation. Missing: to reach the averaged model, to swap
at another time, to give the callback a model of one's own, and names for the actions of a profiler.
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
