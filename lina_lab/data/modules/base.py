"""The base of the data modules: a training stream that depends on the seed and the step alone."""

from collections.abc import Mapping, Sequence
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
    """The held-out images: takes a tensor of indices and returns a batch."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor) -> Batch: ...


class Labelled(Dataset[Batch]):
    """Latents [n, C, H, W] with classes [n], in memory; takes a tensor of indices."""

    def __init__(self, latents: Tensor, labels: Tensor) -> None:
        self.latents, self.labels = latents, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Batch:
        return self.latents[indices], {"label": self.labels[indices]}


class _ErrorsAsBatches(Dataset[Batch | Exception]):
    """Returns data errors of worker processes as objects, to be raised in the main process.

    PyTorch would make the text of the worker's traceback the message.
    """

    def __init__(self, data: Dataset[Batch]) -> None:
        self.data = data

    def __getitem__(self, indices: Tensor) -> Batch | Exception:
        try:
            return self.data[indices]
        except (ValueError, OSError) as error:
            return error


class StepDataModule(L.LightningDataModule):
    """Batches of latents float32 [B, C, H, W], and their condition as arguments of the model.

    A Lightning epoch lasts from one validation to the next, and the last epoch ends with the budget. So the training
    stream depends on the seed and the step alone.

    Args:
        config: the trial.
        train_set: takes a tensor of indices and returns a batch.
        images: images in `train_set`.
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

    @classmethod
    def check_data(cls, config: TrialConfig) -> None:
        """Refuse data that are not there or do not fit the model, before anything is queued. No image is read.

        Raises:
            ValueError: what is wrong.
        """

    @classmethod
    def fields(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """What the data say of a trial: dotted name of a field -> its value; none: they say nothing.

        Args:
            config: the trial's fields as plain nested data.

        Raises:
            ValueError: the data cannot be read.
        """
        return {}

    @cached_property
    def encoder_sha256(self) -> str | None:
        """The hash that identifies the text encoder; None: there is no text encoder."""
        return None if self.encoder is None else self.encoder.sha256()

    @cached_property
    def data_sha256(self) -> str | None:
        """The hash that tells the data from others of the same name; None: the name says all, as of generated data."""
        return None

    @property
    def labels(self) -> Tensor:
        """The classes of the training images, int64 [n], for a data set with `DataSet.weighted_classes`."""
        raise NotImplementedError(
            f"data.name={self.config.data.name} has weighted_classes=True, so {type(self).__name__} needs a property "
            "labels: the classes of the training images"
        )

    @property
    def damaged(self) -> dict[int, str]:
        """Training images that were skipped: index -> what is wrong with the image."""
        return {}

    @property
    def problems(self) -> list[str]:
        """Problems of the data that did not end the trial."""
        return [f"skipped: {sentence}" for sentence in dict.fromkeys(self.damaged.values())]

    def gather_damaged(self) -> int:
        """Count the images that all ranks together skipped; afterwards each rank knows them all.

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
        """The state for checkpoints: which data and text encoder, and skipped images. All ranks call it together."""
        if self.config.data.on_error == "skip":
            self.gather_damaged()
        return {
            "encoder_sha256": self.encoder_sha256,
            "data_sha256": self.data_sha256,
            "damaged": dict(self.damaged),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: it was trained with another text encoder, or on other data, of the same name.
        """
        if state_dict["encoder_sha256"] != self.encoder_sha256:
            raise ValueError(f"data.encoder={self.config.data.encoder} is not the encoder that the checkpoint is of")
        # Checkpoints of version 0.2 do not have it.
        if state_dict.get("data_sha256") not in (None, self.data_sha256):
            name, path = self.config.data.name, self.config.data.path
            which = f"data.name={name}" if path is None else f"data.path={path}"
            raise ValueError(f"{which} holds other data than the checkpoint is of: move the cell's folder away")
        self.damaged.update(state_dict["damaged"])

    def train_dataloader(self) -> DataLoader[Batch]:
        """This rank's micro-batches of the current epoch, from the next optimizer step on."""
        epoch, taken = (self.trainer.current_epoch, self.trainer.global_step) if self.trainer else (0, 0)
        steps = self.config.epoch_steps
        batches = StepBatches(
            images=self.images,
            batch_size=self.config.data.batch_size,
            steps=range(epoch * steps, min((epoch + 1) * steps, self.config.max_steps)),
            seed=self.config.seed,
            done=taken - epoch * steps,
            layout=RankLayout.of(self.trainer),
            order=self.order,
            numbered=self.numbered,
            rng_version=self.config.trainer.rng_version,
        )
        workers = self.config.data.workers
        data = _ErrorsAsBatches(self.train_set) if workers else self.train_set
        return DataLoader(data, sampler=batches, batch_size=None, num_workers=workers)  # type: ignore[arg-type]

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """The validation set twice: once for the raw weights, and once for the averaged ones."""
        batches = HeldOutBatches(
            images=len(self.val_set), batch_size=self.config.data.val_batch_size, layout=RankLayout.of(self.trainer)
        )
        return [DataLoader(self.val_set, sampler=batches, batch_size=None) for _ in range(2)]  # type: ignore[arg-type]

    def on_after_batch_transfer(self, batch: Batch | Exception, dataloader_idx: int) -> Batch:
        """Encode captions on the model's device; raise, or note, what went wrong in a worker process."""
        if isinstance(batch, Exception):
            raise batch
        latents, condition = batch
        if "damaged" in condition:
            self.damaged.update(condition["damaged"])
            self._check_damaged()
        return latents, self.condition(condition, latents.device)

    def condition(self, condition: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
        """A batch's condition as arguments of the model; empty for an unconditional model."""
        if self.config.model.text_dim is not None:
            if "captions" in condition:
                assert self.encoder is not None
                text, present = self.encoder.encode(condition["captions"], self.config.model.text_length, device)
                return {"text": text, "present": present}
            return {"text": condition["text"].to(device).float(), "present": condition["present"].to(device)}
        return {} if self.config.model.num_classes is None else {"label": condition["label"].to(device)}

    def held_out_condition(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """The condition of held-out images, as arguments of the model."""
        return self.condition(self.val_set[torch.tensor(indices)][1], device)

    def captions(self, indices: Sequence[int]) -> list[str]:
        """The captions of held-out images; empty for data without captions."""
        return list(self.val_set[torch.tensor(indices)][1].get("captions", []))
