"""WebDataset shards of cached latents as training data: any rank reads any image, in an order that the seed decides.

Members are read where they lie in a tar. So what a rank sees depends on (seed, step) and not on how shards fall to
ranks and workers. Neighbors in the order come from a few shards, so reading stays local.
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
from lina_lab.util.seeds import derive, seed_generator

WINDOW = 8
"""Shards whose images are shuffled together."""
ConditionKind = Literal["label", "captions", "text"] | None
"""The condition of an image: its class, its caption, the states of its caption, or none."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One form of an image."""

    index: int
    mirrored: int
    """1: the mirror image."""
    long: bool
    """Whether with the long caption."""


class ShardImages(Dataset[Batch]):
    """The images of a folder of shards: takes numbers, returns latents float32 [B, C, h, w] and their condition.

    Number `pass * images + index` is the image with an index in a pass over the data. A generator seeded by
    (seed, pass, index) samples its latent from the posterior, and decides whether it is mirrored and which caption it
    has. Latents are scaled to unit variance. Held-out images are posterior means, not mirrored, with the short caption.

    Args:
        folder: of the shards.
        manifest: of the folder.
        kind: of the condition.
        first, images: which of the folder's images these are.
        seed: of the samples; None: these are held-out images.
        flip: whether to mirror half of the images.
        long: share of the images that come with their long caption.
        skip: share of the images that may be damaged; others take their place. 0: none may.
        rng_version: one of `seeds.RNG_VERSIONS`.

    Raises:
        ShardError: by indexing; an image is damaged and `skip` does not allow it.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        kind: ConditionKind,
        *,
        first: int,
        images: int,
        seed: int | None,
        flip: bool = False,
        long: float = 0.0,
        skip: float = 0.0,
        rng_version: int = 1,
    ) -> None:
        self.reader, self.kind = ShardReader(folder, manifest), kind
        self.first, self.images, self.seed = first, images, seed
        self.flip, self.long, self.skip, self.rng_version = flip, long, skip, rng_version
        self.latent_shape = manifest.latent_shape
        self.mean, self.std = (torch.tensor(v).reshape(-1, 1, 1) for v in (manifest.mean, manifest.std))
        self.damaged: dict[int, str] = {}
        """Index -> what is wrong with the image: images that this process found damaged, or learned of."""

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, numbers: Tensor) -> Batch:
        count, generator = len(numbers), Generator()
        moments = np.empty((count, *self.reader.shape[1:]), dtype=np.float16)
        noise = torch.zeros(count, *self.latent_shape)
        variants, conditions, damaged = [], [], dict[int, str]()
        for row, number in enumerate(numbers.tolist()):
            variants.append(self._sampled(number, noise[row], generator))
            moments[row], condition = self._readable(variants[-1], damaged)
            conditions.append(condition)
        floats = moments.astype(np.float32)
        # A sum is finite where all its parts are.
        for row in np.flatnonzero(~np.isfinite(floats.sum(axis=(1, 2, 3)))).tolist():
            floats[row], conditions[row] = self._readable(variants[row], damaged, finite=True)
        latents = torch.from_numpy(floats)
        if self.reader.manifest.sampled:
            mean, log_variance = latents.chunk(2, dim=1)
            latents = mean + noise * (0.5 * log_variance.clamp(-30, 20)).exp_()
        batched = self._batched(conditions) | ({"damaged": damaged} if damaged else {})
        return latents.sub_(self.mean).div_(self.std), batched

    def captions(self, indices: Iterable[int]) -> list[str]:
        """The short captions of images."""
        return [self.reader.caption(self.reader.at(self.first + index)) for index in indices]

    def order(self, generator: Generator) -> Tensor:
        """All indices of a pass, shuffled within a few shards at a time."""
        edges = (np.clip(self.reader.starts, self.first, self.first + self.images) - self.first).tolist()
        shards = [torch.arange(start, stop) for start, stop in pairwise(edges) if stop > start]
        mixed = torch.randperm(len(shards), generator=generator).tolist()
        parts = []
        for start in range(0, len(mixed), WINDOW):
            indices = torch.cat([shards[each] for each in mixed[start : start + WINDOW]])
            parts.append(indices[torch.randperm(len(indices), generator=generator)])
        return torch.cat(parts)

    def _sampled(self, number: int, noise: Tensor, generator: Generator) -> Variant:
        """Sample the variant of an image in a pass, and write its noise to `noise`, which stays zero if held out."""
        passed, index = divmod(number, self.images)
        if self.seed is None:
            return Variant(index=index, mirrored=0, long=False)
        seed_generator(generator, self.rng_version, self.seed, "posterior", passed, index)
        heads = bool(torch.rand((), generator=generator) < 0.5)
        torch.randn(noise.shape, generator=generator, out=noise)
        long = bool(self.long) and bool(torch.rand((), generator=generator) < self.long)
        return Variant(index=index, mirrored=int(self.flip and heads), long=long)

    def _readable(self, variant: Variant, damaged: dict[int, str], *, finite: bool = False) -> tuple[Half, Any]:
        """Moments [2C, h, w] and condition of an image, or of another in its place as far as `skip` allows.

        Images that are found damaged are added to `damaged`.
        """
        for attempt in range(self.images):
            # Not the next one: those of a whole damaged shard would all become the first of the next.
            index = derive("in place of", variant.index, attempt) % self.images if attempt else variant.index
            try:
                return self._read(replace(variant, index=index) if attempt else variant, finite=finite)
            except ShardError as error:
                self.damaged[index] = damaged[index] = str(error)
                if len(self.damaged) > self.skip * self.images:
                    allowed = f"; {len(self.damaged)} of {self.images} are more than data.max_skipped={self.skip}"
                    raise ShardError(f"{error}{allowed if self.skip else ''}") from error
        raise ShardError(f"{self.reader.folder}: no image can be read")

    def _read(self, variant: Variant, *, finite: bool) -> tuple[Half, Any]:
        at = self.reader.at(self.first + variant.index)
        moments = self.reader.moments(at, variant.mirrored)
        if finite and not np.isfinite(moments).all():
            raise ShardError(f"{self.reader.where(at)}: moments are not finite")
        match self.kind:
            case "label":
                return moments, self.reader.label(at)
            case "captions":
                return moments, self.reader.caption(at, long=variant.long)
            case "text":
                return moments, self.reader.states(at, long=variant.long)
        return moments, None

    def _batched(self, conditions: list[Any]) -> dict[str, Any]:
        match self.kind:
            case "label":
                return {"label": torch.tensor(conditions, dtype=torch.int64)}
            case "captions":
                return {"captions": conditions}
            case "text":
                # Half precision is less to move; it becomes float32 on the model's device.
                states = pad_sequence([torch.from_numpy(np.array(each)) for each in conditions], batch_first=True)
                lengths = torch.tensor([len(each) for each in conditions])
                return {"text": states, "present": torch.arange(states.shape[1]) < lengths.unsqueeze(1)}
        return {}
