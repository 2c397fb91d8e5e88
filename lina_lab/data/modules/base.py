"""What the data modules share: a training stream that depends on the seed and the step alone."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lina_lab.config import TrialConfig
from lina_lab.data.batch import Batch
from lina_lab.data.order import HeldOutBatches, Order, RankLayout, StepBatches
from lina_lab.data.text import TextEncoder, load_text_encoder


class HeldOut(Protocol):
    """The held-out images: takes a tensor of places and returns a batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, places: Tensor) -> Batch: ...


class Labelled(Dataset[Batch]):
    """Latents [n, C, H, W] with classes [n], in memory; takes a tensor of places."""

    def __init__(self, latents: Tensor, labels: Tensor) -> None:
        self.latents, self.labels = latents, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, places: Tensor) -> Batch:
        return self.latents[places], {"label": self.labels[places]}


class _ErrorsAsBatches(Dataset[Batch | Exception]):
    """For worker processes: what is wrong with data crosses as the error that it is, to be raised by who asked.

    PyTorch would make the text of its traceback the message.
    """

    def __init__(self, data: Dataset[Batch]) -> None:
        self.data = data

    def __getitem__(self, numbers: Tensor) -> Batch | Exception:
        try:
            return self.data[numbers]
        except (ValueError, OSError) as error:
            return error


class StepDataModule(L.LightningDataModule):
    """Batches of latents float32 [B, C, H, W], and what the model is told of them, as its arguments.

    A Lightning epoch is the stretch between two validations, so that what is trained on depends on the seed and the
    step alone; the last epoch ends with the budget.

    Args:
        config: the trial.
        train_set: takes a tensor of numbers and returns a batch.
        images: images in it.
        val_set: the held-out images.
        order, numbered: see `StepBatches`.

    Raises:
        ValueError: the text encoder cannot be loaded, or does not fit the model.
    """

    def __init__(
        self,
        config: TrialConfig,
        train_set: Dataset[Batch],
        images: int,
        val_set: HeldOut,
        *,
        order: Order | None = None,
        numbered: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.train_set, self.images, self.val_set = config, train_set, images, val_set
        self.order, self.numbered = order, numbered
        name = config.data.encoder
        self.encoder: TextEncoder | None = None if name is None else load_text_encoder(name, config.model.text_dim)

    @cached_property
    def encoder_sha256(self) -> str | None:
        """What tells the text encoder from others; None: there is none."""
        return None if self.encoder is None else self.encoder.sha256()

    @property
    def damaged(self) -> dict[int, str]:
        """Training images that were passed over: place -> what is wrong."""
        return {}

    @property
    def problems(self) -> list[str]:
        """What was wrong with the data and did not end the trial."""
        return [f"passed over: {sentence}" for sentence in dict.fromkeys(self.damaged.values())]

    def gather_damaged(self) -> int:
        """How many images all ranks together passed over; from then on each rank knows them all.

        Raises:
            ValueError: on all ranks, if they are more than `data.max_skipped` allows.
        """
        if self.trainer is not None and self.trainer.world_size > 1:
            found: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(found, self.damaged)
            for each in found:
                self.damaged.update(each)
        self._check_damaged()
        return len(self.damaged)

    def _check_damaged(self) -> None:
        if len(self.damaged) > self.config.data.max_skipped * self.images:
            allowed = f"are more than data.max_skipped={self.config.data.max_skipped}"
            raise ValueError(f"{len(self.damaged)} damaged images of {self.images} {allowed}: {self.problems[0]}")

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints, on all ranks together: whose states were learned from, and what was passed over."""
        if self.config.data.on_error == "skip":
            self.gather_damaged()
        return {"encoder_sha256": self.encoder_sha256, "damaged": dict(self.damaged)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it was trained with another text encoder of the same name.
        """
        if state_dict["encoder_sha256"] != self.encoder_sha256:
            raise ValueError(f"data.encoder={self.config.data.encoder} is not the encoder that the checkpoint is of")
        self.damaged.update(state_dict["damaged"])

    def train_dataloader(self) -> DataLoader[Batch]:
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
        data = _ErrorsAsBatches(self.train_set) if workers else self.train_set
        return DataLoader(data, sampler=batches, batch_size=None, num_workers=workers)  # type: ignore[arg-type]

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """The validation set twice: the module takes raw weights to the first and averaged ones to the second."""
        batches = HeldOutBatches(
            images=len(self.val_set), batch_size=self.config.data.val_batch_size, place=self._place()
        )
        return [DataLoader(self.val_set, sampler=batches, batch_size=None) for _ in range(2)]  # type: ignore[arg-type]

    def on_after_batch_transfer(self, batch: Batch | Exception, dataloader_idx: int) -> Batch:
        """Captions become states where the model is; what workers passed over, or ended at, becomes known here."""
        if isinstance(batch, Exception):
            raise batch
        latents, given = batch
        if "damaged" in given:
            self.damaged.update(given["damaged"])
            self._check_damaged()
        return latents, self.condition(given, latents.device)

    def condition(self, given: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
        """What is said of images as arguments of the model; an unconditional one is told nothing."""
        if self.config.model.text_dim is not None:
            if "captions" in given:
                assert self.encoder is not None
                text, present = self.encoder.encode(given["captions"], self.config.model.text_length, device)
                return {"text": text, "present": present}
            return {"text": given["text"].to(device).float(), "present": given["present"].to(device)}
        return {} if self.config.model.num_classes is None else {"label": given["label"].to(device)}

    def examples(self, places: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """What is said of held-out images, as arguments of the model."""
        return self.condition(self.val_set[torch.tensor(places)][1], device)

    def captions(self, places: Sequence[int]) -> list[str]:
        """The captions of held-out images; none where there are none."""
        return list(self.val_set[torch.tensor(places)][1].get("captions", []))

    def _place(self) -> RankLayout:
        if self.trainer is None:
            return RankLayout()
        trainer = self.trainer
        return RankLayout(
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
        )
