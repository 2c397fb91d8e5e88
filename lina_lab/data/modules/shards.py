"""The data module of shards of cached latents."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.shards.format import Manifest, ShardError, read_manifest
from lina_lab.data.shards.images import ConditionKind, ShardImages

NO_TEXT = {"model.text_dim": None, "data.encoder": None}
"""Fields of a trial without captions."""
OPEN = "give data.encoder and model.text_dim, or text=NAME to the cache"
"""What to do about captions without states."""


class ShardsDataModule(StepDataModule):
    """The shards in `data.path`. Their first `data.val_images` images are held out; their latents are posterior means.

    Raises:
        ShardError: the shards are not whole, or do not fit the model.
    """

    def __init__(self, config: TrialConfig) -> None:
        folder, manifest, kind = _fitting(config)
        held_out = config.data.val_images
        train = ShardImages(
            folder,
            manifest,
            kind,
            first=held_out,
            images=manifest.images - held_out,
            seed=config.seed,
            rng_version=config.trainer.rng_version,
            # A caption may say what is on the left.
            flip=manifest.classes is not None if config.data.flip is None else config.data.flip,
            long=config.data.long_captions,
            skip=config.data.max_skipped if config.data.on_error == "skip" else 0.0,
        )
        val = ShardImages(folder, manifest, kind, first=0, images=held_out, seed=None)
        super().__init__(config, train, len(train), val, order=train.order, numbered=True)
        self.manifest = manifest

    @cached_property
    def data_sha256(self) -> str:
        """The hash of all that the manifest says of the latents."""
        return self.manifest.contents

    @classmethod
    def check_data(cls, config: TrialConfig) -> None:
        _fitting(config)

    @classmethod
    def fields(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The shape of latents, and the classes or the states of captions, as the manifest has them."""
        folder = Path(config["data"]["path"])
        manifest = read_manifest(folder)
        channels, *size = manifest.latent_shape
        found: dict[str, Any] = {"model.latent_channels": channels, "model.latent_size": size}
        if manifest.classes is not None:
            return {**found, "model.num_classes": len(manifest.classes), **NO_TEXT}
        if manifest.text is None and config["model"]["text_dim"] is None:
            # Only the user can say which encoder makes the states. Without one this is no model of no condition.
            return found
        found["model.num_classes"] = None
        if manifest.text is None:
            return found
        text = {"model.text_dim": manifest.text.dim, "model.text_length": manifest.text.length}
        return {**found, **text, "data.encoder": None}

    def captions(self, indices: Sequence[int]) -> list[str]:
        """The captions of held-out images, also where the model takes their states."""
        assert isinstance(self.val_set, ShardImages)
        return self.val_set.captions(indices) if self.val_set.kind in ("captions", "text") else []

    def setup(self, stage: str) -> None:
        """Read this rank's held-out images once: a damaged one must be found before training, not after a day."""
        for indices in self.val_dataloader()[0].sampler:
            self.val_set[indices]

    @property
    def damaged(self) -> dict[int, str]:
        assert isinstance(self.train_set, ShardImages)
        return self.train_set.damaged


def _fitting(config: TrialConfig) -> tuple[Path, Manifest, ConditionKind]:
    """The folder of a trial's shards, its manifest, and the kind of condition that the model takes.

    Raises:
        ShardError: the shards are not whole, or do not fit the trial.
    """
    assert config.data.path is not None
    folder, held_out = Path(config.data.path), config.data.val_images
    manifest = read_manifest(folder)
    kind = _condition_kind(folder, manifest, config)
    if manifest.images <= held_out:
        raise ShardError(
            f"{folder} holds {manifest.images} images, and data.val_images={held_out} of them are held out"
        )
    return folder, manifest, kind


def _condition_kind(folder: Path, manifest: Manifest, config: TrialConfig) -> ConditionKind:
    """The kind of condition that the model takes.

    Raises:
        ShardError: the shards do not hold what the model needs.
    """
    model, data = config.model, config.data
    shape = (model.latent_channels, *model.latent_size)
    if manifest.latent_shape != shape:
        raise ShardError(f"{folder} holds latents {list(manifest.latent_shape)}, and the model needs {list(shape)}")
    if manifest.vae is None and config.sampling.vae is not None:
        raise ShardError(
            f"{folder} holds pixels, which need no autoencoder: leave sampling.vae={config.sampling.vae} out"
        )
    if model.num_classes is not None:
        if manifest.classes is None:
            how = f": {OPEN}" if manifest.text is None else ""
            needs = f"which model.num_classes={model.num_classes} needs{how}"
            raise ShardError(f"{folder} holds captions and no classes, {needs}")
        if len(manifest.classes) != model.num_classes:
            classes = len(manifest.classes)
            raise ShardError(f"{folder} holds {classes} classes, and model.num_classes={model.num_classes}")
        return "label"
    if model.text_dim is None:
        return None
    if manifest.classes is not None:
        raise ShardError(f"{folder} holds classes and no captions, which model.text_dim={model.text_dim} needs")
    if data.long_captions and not manifest.long_captions:
        raise ShardError(f"{folder} holds no long captions, and data.long_captions={data.long_captions}")
    if data.encoder is not None:
        return "captions"
    if manifest.text is None:
        raise ShardError(f"{folder} holds captions without states: {OPEN}")
    if (manifest.text.dim, True) != (model.text_dim, manifest.text.length <= model.text_length):
        raise ShardError(
            f"{folder} holds up to {manifest.text.length} states of {manifest.text.dim} channels, and the model takes "
            f"model.text_length={model.text_length} of model.text_dim={model.text_dim}"
        )
    return "text"
