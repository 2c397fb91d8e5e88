"""The optimizer's state of a source, for the trial that starts from it."""

from typing import cast

import lightning as L
from lightning.pytorch.callbacks import Callback

from lina_lab.training.module import LinaModule
from lina_lab.training.optimizer_state import take_moments
from lina_lab.training.start import Start


class TakeMoments(Callback):
    """Gives the fresh optimizer the source's state of the parameters that were taken.

    Args:
        start: what the trial starts from. It is here and not in the module, of which the average makes a copy.
    """

    def __init__(self, start: Start) -> None:
        self.moments = start.moments

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.moments:
            return
        inherited = cast(LinaModule, pl_module).inherited
        assert inherited is not None
        names = {f"model.{name}" for name in inherited.taken}
        for optimizer, state in zip(trainer.optimizers, self.moments, strict=True):
            take_moments(optimizer, state, pl_module, names)
        self.moments = ()
