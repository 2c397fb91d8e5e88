"""The LightningModule around the model: loss, optimizer, logged numbers. Thin."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from lina_lab.config import TrialConfig, from_stored, to_dict
from lina_lab.config.history import PLACES
from lina_lab.config.schedules import rate_factor, warmup_steps
from lina_lab.data.batch import DATA_STATE, Batch
from lina_lab.data.order import RankLayout
from lina_lab.model import initialize, make_model, sample_step_inputs
from lina_lab.model.inherit import Inherited
from lina_lab.model.inputs import Inputs
from lina_lab.training.distillation import Distillation
from lina_lab.training.gradients import clip_gradients, gradient_norm
from lina_lab.training.optimizer_state import LAYOUT, State, with_names
from lina_lab.training.optimizers import make_optimizer
from lina_lab.training.start import Start, go_on
from lina_lab.training.validation import frozen_loss_inputs
from lina_lab.util.nested import flatten
from lina_lab.util.partition import held_out

INDEXED_LAYOUT = 2
"""Written by version 0.1: the optimizer's state by the parameters' indices, the data module's under its class name."""
VALIDATION_WEIGHTS = ("raw", "ema")
"""The weights that each of the two validation loaders is run with."""


class LinaModule(L.LightningModule):
    """Trains one model.

    The random inputs of an image's loss depend on (seed, step, index in the batch of all ranks) alone: they are common
    to all variants and sizes, and the same for any number of ranks that share the batch.

    Args:
        config: the trial.
        start: what it starts from; None: weights that are drawn from the seed, or those of its own checkpoint.

    Raises:
        ValueError: the weights do not fit the model.
    """

    def __init__(self, config: TrialConfig, start: Start | None = None) -> None:
        super().__init__()
        self.save_hyperparameters(to_dict(config))
        self.config = config
        self.model = make_model(config.model)
        initialize(self.model, config.seed, config.trainer.rng_version)
        self.inherited: Inherited | None = None
        """What became of the weights that training starts from."""
        self.origin: str | None = None
        """What training started from, as a sentence."""
        self._goes_on = False
        """Whether the checkpoint that is to be loaded is of the source."""
        if start is not None:
            self.inherited = start.give(self.model, config)
            self.origin, self._goes_on = start.note(self.inherited), start.checkpoint is not None
        self.distillation: Distillation | None = None
        """Adds the terms of a teacher to the training loss."""
        self.frozen: list[tuple[Inputs, int]] = []
        """For each validation batch the loss inputs of this rank's images, and how many of these images count."""
        self.averages = False
        """Whether `ExponentialAverage` swaps its weights in for the second validation loader."""
        self.measures_norm = False
        """Whether the gradients' norm of the step that runs now is wanted; with a limit it is measured in each step."""
        self.gradient_norm: Tensor | None = None
        """Norm of all gradients of the last step where it was measured, before they were clipped."""
        self._optimizer_states: list[State] = []
        """From a checkpoint, until there is an optimizer to take them."""

    @property
    def images_seen(self) -> int:
        """Images that the weights have been trained on."""
        return self.global_step * self.config.data.batch_size

    def setup(self, stage: str) -> None:
        """Make the frozen inputs of validation.

        Raises:
            ValueError: Lightning's own averaging is among the callbacks.
        """
        self._check_averaging()
        self.frozen = []
        for inputs in frozen_loss_inputs(self.config):
            mine, counted = held_out(len(inputs), rank=self.global_rank, world_size=self.trainer.world_size)
            self.frozen.append((inputs.part(mine), counted))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | dict[str, Tensor]:
        latents, condition = batch
        layout = RankLayout.of(self.trainer)
        mine = layout.microbatch(self.config.data.batch_size, batch_idx % layout.accumulate_grad_batches)
        inputs = sample_step_inputs(
            self.config.model,
            seed=self.config.seed,
            step=self.global_step,
            images=mine,
            rng_version=self.config.trainer.rng_version,
            **self.config.augmentations,
        )
        if self.distillation is None:
            alone: Tensor = self.model.loss_from_inputs(latents, inputs, **condition)
            return alone
        loss, terms = self.distillation.loss(self.model, latents, inputs, condition)
        return {"loss": loss, **terms}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        weights = VALIDATION_WEIGHTS[dataloader_idx]
        if weights == "ema" and not self.averages:
            return
        latents, condition = batch
        inputs, counted = self.frozen[batch_idx]
        measured = {"loss": self.model.loss_from_inputs(latents, inputs, **condition)}
        for name in self.config.model.kind.metrics:
            measured[name] = getattr(self.model, name)(latents, **condition)
        for name, value in measured.items():
            self.log(f"val/{name}_{weights}", value, batch_size=counted, add_dataloader_idx=False, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        if self.config.data.on_error == "skip":
            skipped = self.trainer.datamodule.gather_damaged()  # type: ignore[attr-defined]
            self.log_over_images({"data/skipped": float(skipped)}, self.images_seen)
        self.log_over_images({}, self.images_seen)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        config, total, warmup = self.config.optimizer, self.config.max_steps, warmup_steps(self.config)
        optimizer = make_optimizer(self.model, config)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(config, step, total=total, warmup=warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients and measure their norm; Lightning calls it before each optimizer step."""
        if self.config.optimizer.clip_norm is not None:
            self.gradient_norm = clip_gradients(optimizer, self.config.optimizer.clip_norm)
        elif self.measures_norm:
            self.gradient_norm = gradient_norm(optimizer)
        if gradient_clip_val:  # of a trainer of somebody's own
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["layout"] = LAYOUT
        if self.origin is not None:
            checkpoint["origin"] = self.origin
        if self.device_mesh is None or self.config.checkpoint.distributed:
            checkpoint["optimizer_states"] = [get_optimizer_state_dict(self, o) for o in self.trainer.optimizers]
        else:
            # The strategy has gathered them, on the first rank alone.
            checkpoint["optimizer_states"] = [with_names(s, self) for s in checkpoint["optimizer_states"] if s]
        checkpoint[DATA_STATE] = checkpoint.pop(self._data_name, {})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put what a checkpoint holds where Lightning looks for it.

        Raises:
            ValueError: it is of another configuration, or a version wrote it whose checkpoints this one does not read.
        """
        layout = checkpoint.get("layout")
        if layout not in (INDEXED_LAYOUT, LAYOUT):
            raise ValueError("the checkpoint was written by another version of lina_lab: move the cell's folder away")
        if self._goes_on:
            layout_of_ranks = RankLayout.of(self.trainer)
            go_on(
                checkpoint,
                self.config,
                accumulate_grad_batches=layout_of_ranks.accumulate_grad_batches,
                callbacks={callback.state_key for callback in self.trainer.callbacks},  # type: ignore[attr-defined]
            )
        else:
            self._check_configuration(checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY])
            self.origin = checkpoint.get("origin")
        if layout == LAYOUT:
            checkpoint[self._data_name] = checkpoint.pop(DATA_STATE)
        if self.device_mesh is None:
            # Lightning would give them to the optimizer by order and not by name.
            states, checkpoint["optimizer_states"] = checkpoint["optimizer_states"], []
            self._optimizer_states = [with_names(s, self) if layout == INDEXED_LAYOUT else s for s in states]

    def on_train_start(self) -> None:
        if self._optimizer_states:
            for optimizer, state in zip(self.trainer.optimizers, self._optimizer_states, strict=True):
                set_optimizer_state_dict(self, optimizer, state)
        self._optimizer_states = []
        if self._goes_on:
            self._set_rates()

    def _set_rates(self) -> None:
        """Have the next step's rate follow this trial's schedule, not the one of the source."""
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
            rates = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            for group, base, factor in rates:
                group["lr"] = base * factor(scheduler.last_epoch)

    def _check_averaging(self) -> None:
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        foreign = [each for each in callbacks if isinstance(each, WeightAveraging) and not hasattr(each, "averaged")]
        if foreign:
            raise ValueError(
                f"{type(foreign[0]).__name__} averages the weights for both validation losses: take "
                "lina_lab.training.callbacks.ema.ExponentialAverage in its place"
            )
        if not self.averages:
            rank_zero_warn("there is no ExponentialAverage among the callbacks, and so no val/loss_ema")

    def _check_configuration(self, stored: dict[str, Any]) -> None:
        """Refuse a checkpoint of another trial."""
        other = from_stored(TrialConfig, stored)
        # Files and folders may have moved; what they hold is compared by the study and by the data module.
        anywhere = dict.fromkeys(PLACES)
        if other.config_hash(anywhere) != self.config.config_hash(anywhere):
            then, now = flatten(to_dict(other)), flatten(to_dict(self.config))
            changed = [name for name in now if then.get(name) != now[name]]
            raise ValueError(
                "the checkpoint is of another trial ("
                + "; ".join(f"{name} was {then.get(name)} and is {now[name]}" for name in changed)
                + "): give this one a folder of its own"
            )

    def log_over_images(self, metrics: dict[str, float], images: int) -> None:
        """Log metrics that are the same on all ranks, over the number of images seen."""
        # Lightning takes a metric of this name as the loggers' step, which is the trackers' x axis.
        self.log_dict({**metrics, "step": torch.tensor(images, dtype=torch.float64)})

    @property
    def _data_name(self) -> str:
        """Lightning's key for the state of the data module."""
        return type(self.trainer.datamodule).__qualname__  # type: ignore[attr-defined]
