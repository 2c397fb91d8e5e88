"""How images are encoded to shards."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS
from lina_lab.config.checks import PositiveInt

if TYPE_CHECKING:
    from lina_lab.data.shards.samples import Keys


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class CacheConfig:
    """Fields of `lina cache`."""

    out: str
    """Folder of the shards."""
    images: str | None = None
    """Folder of the images, or of WebDataset shards of them; not needed for verify=true."""
    vae: str | None = None
    """Folder or hub name of an autoencoder of diffusers, such as AutoencoderKL, AutoencoderDC or AutoencoderTiny; null:
    the shards hold pixels, for models of small pictures; not needed for verify=true."""
    latent_statistics: Literal["measured", "published"] = "measured"
    """Mean and standard deviation by which training scales latents: measured on these images, channel by channel; or
    published with the autoencoder (scaling_factor and shift_factor, or latents_mean and latents_std), as weights need
    that were trained with them."""
    resolution: PositiveInt | None = None
    """Height and width in pixels: the shorter side is scaled to it, and the longer one cropped at the center; null: 256
    with an autoencoder; pixels need a number."""
    text: str | None = None
    """For captions: text encoder whose states are stored with them, a folder or hub name of transformers, or `words`;
    null: captions alone, which training encodes."""
    text_length: Annotated[int, Field(gt=0, le=512, strict=True)] = 256
    """Largest number of states of a caption: a longer caption is cut off."""
    text_dim: PositiveInt | None = None
    """For text=words: channels of a state; other encoders have a number of their own."""
    images_per_shard: PositiveInt = 1000
    """Images in a shard."""
    batch_size: PositiveInt = 32
    """Images encoded together."""
    on_error: Literal["raise", "skip"] = "raise"
    """On an image that is damaged or lacks a caption or class that others have: raise (the command ends); skip (the
    image is left out)."""
    max_skipped: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """For on_error=skip: largest share of the images that may be left out; more end the command."""
    caption_key: str | None = None
    """Key of the captions in JSON files beside the images or in shards, or their column in tables and metadata; null:
    caption, in tables also text."""
    long_caption_key: str | None = None
    """Key or column of longer captions; null: none."""
    label_key: str | None = None
    """Column of the classes in tables and metadata; null: label."""
    image_key: str | None = None
    """Column of the images in tables; null: the one that holds pictures by its type or name."""
    split: str | None = None
    """For tables: the part of the data set, such as train; null: there is one part."""
    verify: bool = False
    """Compare the shards in `out` with their manifest, and the images with those that the shards were made of."""

    @property
    def side(self) -> int:
        """Pixels of an image's side."""
        return self.resolution or 256

    @property
    def keys(self) -> "Keys":
        """What captions and classes are called."""
        from lina_lab.data.shards.samples import Keys

        return Keys(self.caption_key, self.long_caption_key, self.label_key, self.image_key, self.split)
