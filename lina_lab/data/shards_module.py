"""The data module of cached shards."""

from pathlib import Path

from torch.utils.data import TensorDataset

from lina_lab.config import TrialConfig
from lina_lab.data.shards import ShardError, ShardImages, read_manifest
from lina_lab.data.steps import StepDataModule


class ShardsDataModule(StepDataModule):
    """The shards in `data.path`. Their first `data.val_images` images are held out, as the posterior's mean.

    Raises:
        ShardError: the shards are not whole, or do not fit the model.
    """

    def __init__(self, config: TrialConfig) -> None:
        assert config.data.path is not None
        folder, held_out = Path(config.data.path), config.data.val_images
        manifest, model = read_manifest(folder), config.model
        shape = (model.latent_channels, *model.latent_size)
        if manifest.latent_shape != shape:
            raise ShardError(f"{folder} holds latents {list(manifest.latent_shape)}, and the model needs {list(shape)}")
        if model.num_classes is not None and len(manifest.classes or ()) != model.num_classes:
            classes = len(manifest.classes or ())
            raise ShardError(f"{folder} holds {classes} classes, and model.num_classes={model.num_classes}")
        if manifest.images <= held_out:
            raise ShardError(
                f"{folder} holds {manifest.images} images, and data.val_images={held_out} of them are held out"
            )
        train = ShardImages(
            folder,
            manifest,
            first=held_out,
            images=manifest.images - held_out,
            seed=config.seed,
            flip=config.data.flip,
            skip=config.data.max_skipped,
        )
        val = ShardImages(folder, manifest, first=0, images=held_out, seed=0, flip=False)
        super().__init__(config, train, len(train), TensorDataset(*val.means()), order=train.order, numbered=True)

    @property
    def problems(self) -> list[str]:
        """Images that were passed over."""
        assert isinstance(self.train_set, ShardImages)
        return [f"passed over: {sentence}" for sentence in dict.fromkeys(self.train_set.damaged.values())]
