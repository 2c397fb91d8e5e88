"""WebDataset shards of cached latents as training data: any rank reads the images of its own, in the order of a seed.

A tar is read where its members lie, so that what a rank sees depends on (seed, step) and not on how shards fall to
ranks and workers; neighbours in the order come from a few shards, so that reading stays local.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lina_lab.data.batch import Batch
from lina_lab.data.shards.format import Half, Manifest, ShardError
from lina_lab.data.shards.reader import ShardReader
from lina_lab.util.seeds import derive

WINDOW = 8
"""Shards whose images are mixed with each other."""
ConditionKind = Literal["label", "captions", "text"] | None
"""What a model is told of an image: its class, its caption, states of its caption, or nothing."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which form of which image."""

    place: int
    mirrored: int
    long: bool
    """Its long caption."""


class ShardImages(Dataset[Batch]):
    """The images of a folder of shards: takes numbers, returns latents float32 [B, C, h, w] and what is said of them.

    Number `pass * images + place` is the image at a place, in a pass over the data: its latent is drawn from the
    posterior, and mirrored or not, and its caption the short or the long one, by draws of (seed, pass, place). Latents
    are scaled to unit variance. Held-out images are the posterior's mean, as they are, with the short caption.

    Args:
        folder: of the shards.
        manifest: what it holds.
        given: what is said of an image.
        first, images: which of the folder's images these are.
        seed: of the draws; None: held-out images.
        flip: mirror half of them.
        long: share of them with their long caption.
        skip: share of the images that may be damaged, and are then replaced by others; 0: the first is one too many.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        given: ConditionKind,
        *,
        first: int,
        images: int,
        seed: int | None,
        flip: bool = False,
        long: float = 0.0,
        skip: float = 0.0,
    ) -> None:
        self.reader, self.given = ShardReader(folder, manifest), given
        self.first, self.images, self.seed = first, images, seed
        self.flip, self.long, self.skip = flip, long, skip
        self.latent_shape = manifest.latent_shape
        self.mean, self.std = (torch.tensor(v).reshape(-1, 1, 1) for v in (manifest.mean, manifest.std))
        self.damaged: dict[int, str] = {}
        """Place -> what is wrong with the image there; of what this process read, or was told."""

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, numbers: Tensor) -> Batch:
        count, generator = len(numbers), Generator()
        moments = np.empty((count, 2 * self.latent_shape[0], *self.latent_shape[1:]), dtype=np.float16)
        noise = torch.zeros(count, *self.latent_shape)
        asked, said, damaged = [], [], dict[int, str]()
        for row, number in enumerate(numbers.tolist()):
            asked.append(self._drawn(number, noise[row], generator))
            moments[row], told = self._readable(asked[-1], damaged)
            said.append(told)
        floats = moments.astype(np.float32)
        # A sum is finite where all its parts are.
        for row in np.flatnonzero(~np.isfinite(floats.sum(axis=(1, 2, 3)))).tolist():
            floats[row], said[row] = self._readable(asked[row], damaged, finite=True)
        mean, log_variance = torch.from_numpy(floats).chunk(2, dim=1)
        latents = mean + noise * (0.5 * log_variance.clamp(-30, 20)).exp_()
        given = self._together(said) | ({"damaged": damaged} if damaged else {})
        return latents.sub_(self.mean).div_(self.std), given

    def captions(self, places: Iterable[int]) -> list[str]:
        """The short captions of images."""
        return [self.reader.caption(self.reader.at(self.first + place)) for place in places]

    def order(self, generator: Generator) -> Tensor:
        """All places of a pass in an order that mixes a few shards at a time."""
        edges = (np.clip(self.reader.starts, self.first, self.first + self.images) - self.first).tolist()
        shards = [range(start, stop) for start, stop in pairwise(edges) if stop > start]
        mixed = torch.randperm(len(shards), generator=generator).tolist()
        parts = []
        for start in range(0, len(mixed), WINDOW):
            places = torch.cat([torch.arange(*_ends(shards[each])) for each in mixed[start : start + WINDOW]])
            parts.append(places[torch.randperm(len(places), generator=generator)])
        return torch.cat(parts)

    def _drawn(self, number: int, noise: Tensor, generator: Generator) -> Wanted:
        """What is drawn for an image of a pass; its noise is written in place, and stays zero for a held-out one."""
        passed, place = divmod(number, self.images)
        if self.seed is None:
            return Wanted(place=place, mirrored=0, long=False)
        generator.manual_seed(derive(self.seed, "posterior", passed, place))
        heads = bool(torch.rand((), generator=generator) < 0.5)
        torch.randn(noise.shape, generator=generator, out=noise)
        long = bool(self.long) and bool(torch.rand((), generator=generator) < self.long)
        return Wanted(place=place, mirrored=int(self.flip and heads), long=long)

    def _readable(self, wanted: Wanted, damaged: dict[int, str], *, finite: bool = False) -> tuple[Half, Any]:
        """Moments [2C, h, w] of an image, or of another one in its place, within limits; what is said of it.

        What is found `damaged` on the way is added to it.
        """
        for attempt in range(self.images):
            # Not the next one: those of a whole damaged shard would all become the first of the next.
            place = derive("in place of", wanted.place, attempt) % self.images if attempt else wanted.place
            try:
                return self._read(replace(wanted, place=place) if attempt else wanted, finite=finite)
            except ShardError as error:
                self.damaged[place] = damaged[place] = str(error)
                if len(self.damaged) > self.skip * self.images:
                    allowed = f"; {len(self.damaged)} of {self.images} are more than data.max_skipped={self.skip}"
                    raise ShardError(f"{error}{allowed if self.skip else ''}") from error
        raise ShardError(f"{self.reader.folder}: no image can be read")

    def _read(self, wanted: Wanted, *, finite: bool) -> tuple[Half, Any]:
        at = self.reader.at(self.first + wanted.place)
        moments = self.reader.moments(at, wanted.mirrored)
        if finite and not np.isfinite(moments).all():
            raise ShardError(f"{self.reader.where(at)}: moments are not finite")
        match self.given:
            case "label":
                return moments, self.reader.label(at)
            case "captions":
                return moments, self.reader.caption(at, long=wanted.long)
            case "text":
                return moments, self.reader.states(at, long=wanted.long)
        return moments, None

    def _together(self, said: list[Any]) -> dict[str, Any]:
        match self.given:
            case "label":
                return {"label": torch.tensor(said, dtype=torch.int64)}
            case "captions":
                return {"captions": said}
            case "text":
                # Still in half precision, which is half to move; it becomes float32 where the model is.
                states = pad_sequence([torch.from_numpy(np.array(each)) for each in said], batch_first=True)
                lengths = torch.tensor([len(each) for each in said])
                return {"text": states, "present": torch.arange(states.shape[1]) < lengths.unsqueeze(1)}
        return {}


def _ends(places: range) -> tuple[int, int]:
    return places.start, places.stop
