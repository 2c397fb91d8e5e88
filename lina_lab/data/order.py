"""The order of the images: in training a function of the seed and the step alone."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import lightning as L
import torch
from torch import Generator, Tensor
from torch.utils.data import Sampler

from lina_lab.util.partition import held_out, microbatch
from lina_lab.util.seeds import seeded

Order = Callable[[Generator], Tensor]
"""A generator -> int64 [images]."""


@dataclass(frozen=True, kw_only=True)
class RankLayout:
    """This rank among those that train together."""

    rank: int = 0
    world_size: int = 1
    """Number of ranks."""
    accumulate_grad_batches: int = 1
    """Micro-batches of an optimizer step, one after another."""

    @classmethod
    def of(cls, trainer: L.Trainer | None) -> "RankLayout":
        """The layout of a trainer's ranks; None: one process."""
        if trainer is None:
            return cls()
        return cls(
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
        )

    def microbatch(self, batch_size: int, accumulation_step: int) -> range:
        """See `partition.microbatch`."""
        return microbatch(batch_size, accumulation_step=accumulation_step, **asdict(self))


class StepBatches(Sampler[Tensor]):
    """Indices int64 [n] of a rank's images, `accumulate_grad_batches` micro-batches for each optimizer step.

    The stream is one permutation of all images after another, each from (seed, pass). Batches run across the borders of
    passes, so no image is seen twice before all have been seen once.

    Args:
        images: number of images in the data set.
        batch_size: images of a step, over all ranks.
        steps: the steps.
        seed: the trial's.
        done: how many of these steps were taken before: they count in the length and are left out.
        layout: the rank whose images these are.
        order: makes the indices of a pass, in an order that a generator decides; None: a random permutation.
        numbered: add `pass * images` to the indices, for a data set whose images differ from pass to pass.
        rng_version: one of `seeds.RNG_VERSIONS`.
    """

    def __init__(
        self,
        *,
        images: int,
        batch_size: int,
        steps: range,
        seed: int,
        done: int = 0,
        layout: RankLayout = RankLayout(),
        order: Order | None = None,
        numbered: bool = False,
        rng_version: int = 1,
    ) -> None:
        self.images, self.batch_size, self.steps, self.seed = images, batch_size, steps, seed
        self.done, self.layout, self.numbered, self.rng_version = done, layout, numbered, rng_version
        self.order: Order = order or (lambda generator: torch.randperm(images, generator=generator))

    def __len__(self) -> int:
        return len(self.steps) * self.layout.accumulate_grad_batches

    def __iter__(self) -> Iterator[Tensor]:
        passes: dict[int, Tensor] = {}
        for step in self.steps[self.done :]:
            positions = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
            needed = range(int(positions[0]) // self.images, int(positions[-1]) // self.images + 1)
            passes = {number: passes[number] if number in passes else self._permutation(number) for number in needed}
            order = torch.cat(list(passes.values()))
            batch = order[positions - needed.start * self.images]
            for accumulation_step in range(self.layout.accumulate_grad_batches):
                mine = self.layout.microbatch(self.batch_size, accumulation_step)
                yield batch[mine.start : mine.stop]

    def _permutation(self, number: int) -> Tensor:
        generator = seeded(self.rng_version, self.seed, "pass", number)
        return self.order(generator) + (number * self.images if self.numbered else 0)


class HeldOutBatches(Sampler[Tensor]):
    """A rank's indices int64 [n] in each batch of the held-out images; see `partition.held_out`."""

    def __init__(self, *, images: int, batch_size: int, layout: RankLayout = RankLayout()) -> None:
        self.batches = [range(images)[start : start + batch_size] for start in range(0, images, batch_size)]
        self.layout = layout

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches:
            mine, _ = held_out(len(batch), rank=self.layout.rank, world_size=self.layout.world_size)
            yield torch.tensor([batch[index] for index in mine])
