"""What the data modules share: a training stream that depends on the seed and the step alone."""

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lina_lab.config import TrialConfig
from lina_lab.data.stream import HeldOutBatches, Order, Place, StepBatches


class StepDataModule(L.LightningDataModule):
    """Batches (latents float32 [B, C, H, W], label int64 [B]).

    A Lightning epoch is the stretch between two validations, so that what is trained on depends on the seed and the
    step alone; the last epoch ends with the budget.

    Args:
        config: the trial.
        train_set: takes a tensor of indices and returns a batch.
        images: images in it.
        val_set: the held-out images.
        order, numbered: see `StepBatches`.
    """

    def __init__(
        self,
        config: TrialConfig,
        train_set: Dataset[tuple[Tensor, ...]],
        images: int,
        val_set: TensorDataset,
        *,
        order: Order | None = None,
        numbered: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.train_set, self.images, self.val_set = config, train_set, images, val_set
        self.order, self.numbered = order, numbered

    @property
    def problems(self) -> list[str]:
        """What was wrong with the data and did not end the trial."""
        return []

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """This rank's micro-batches of the current epoch, from the first optimizer step that is still to be taken."""
        epoch, taken = (self.trainer.current_epoch, self.trainer.global_step) if self.trainer else (0, 0)
        steps = self.config.epoch_steps
        batches = StepBatches(
            images=self.images,
            batch_size=self.config.data.batch_size,
            steps=range(epoch * steps, min((epoch + 1) * steps, self.config.max_steps)),
            seed=self.config.seed,
            done=taken - epoch * steps,
            place=self._place(),
            order=self.order,
            numbered=self.numbered,
        )
        workers = self.config.data.workers
        return DataLoader(self.train_set, sampler=batches, batch_size=None, num_workers=workers)

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, ...]]]:
        """The validation set twice: the module takes raw weights to the first and averaged ones to the second."""
        batches = HeldOutBatches(
            images=len(self.val_set), batch_size=self.config.data.val_batch_size, place=self._place()
        )
        return [DataLoader(self.val_set, batch_sampler=batches) for _ in range(2)]

    def _place(self) -> Place:
        if self.trainer is None:
            return Place()
        trainer = self.trainer
        return Place(rank=trainer.global_rank, world=trainer.world_size, turns=trainer.accumulate_grad_batches)
