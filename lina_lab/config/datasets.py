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
class DataSet:
    """What the configuration knows of a data set."""

    name: str
    documentation: str
    """One line for the help."""
    module: Any
    """Maps a TrialConfig to a `lina_lab.data.StepDataModule`: "package.module:attribute", imported when a trial starts,
    or the class."""
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


for entry in (
    DataSet(
        name="digits",
        documentation="scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels in 10 classes",
        module="lina_lab.data.modules.digits:DigitsDataModule",
        classes=True,
        requires=_digits,
    ),
    DataSet(
        name="mnist5k",
        documentation="5,000 of MNIST's handwritten digits: real images of 28 x 28 pixels in 10 classes",
        module="lina_lab.data.modules.mnist5k:Mnist5kDataModule",
        classes=True,
        requires=_mnist5k,
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
    ),
    DataSet(
        name="shapes",
        documentation="captioned pictures of shapes, generated without end in the model's latent_size",
        module="lina_lab.data.modules.shapes:ShapesDataModule",
        captions=True,
        checked_captions=True,
        requires=_shapes,
    ),
):
    DATA_SETS.register(entry)
