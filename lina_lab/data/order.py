"""The order of the images: for training a function of the seed and the step, and of nothing else."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.utils.data import Sampler

from lina_lab.util.partition import held_out, microbatch
from lina_lab.util.seeds import derive

Order = Callable[[Generator], Tensor]
"""A generator -> int64 [images]."""


@dataclass(frozen=True, kw_only=True)
class RankLayout:
    """Which of the ranks that train together this is."""

    rank: int = 0
    world_size: int = 1
    accumulate_grad_batches: int = 1
    """Micro-batches of an optimizer step, one after another (gradient accumulation)."""


class StepBatches(Sampler[Tensor]):
    """Indices of a rank's images at given optimizer steps: int64 [images], `accumulate_grad_batches` batches a step.

    The stream is one permutation of all images after another, each drawn from (seed, pass); batches run across their
    borders, so no image is seen twice before all were seen once.

    Args:
        images: images of the data set.
        batch_size: images of a step, over all ranks.
        steps: the steps.
        seed: the trial's.
        done: of them, steps that were taken before: they count in the length and are passed over.
        place: whose images.
        order: all places of a pass, in an order that a generator decides; a permutation as a rule.
        numbered: add `pass * images` to the places, for a data set that draws something anew in each pass.
    """

    def __init__(
        self,
        *,
        images: int,
        batch_size: int,
        steps: range,
        seed: int,
        done: int = 0,
        place: RankLayout = RankLayout(),
        order: Order | None = None,
        numbered: bool = False,
    ) -> None:
        self.images, self.batch_size, self.steps, self.seed = images, batch_size, steps, seed
        self.done, self.place, self.numbered = done, place, numbered
        self.order: Order = order or (lambda generator: torch.randperm(images, generator=generator))

    def __len__(self) -> int:
        return len(self.steps) * self.place.accumulate_grad_batches

    def __iter__(self) -> Iterator[Tensor]:
        passes: dict[int, Tensor] = {}
        for step in self.steps[self.done :]:
            places = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
            needed = range(int(places[0]) // self.images, int(places[-1]) // self.images + 1)
            passes = {number: passes[number] if number in passes else self._permutation(number) for number in needed}
            order = torch.cat(list(passes.values()))
            batch = order[places - needed.start * self.images]
            at = self.place
            for accumulation_step in range(at.accumulate_grad_batches):
                mine = microbatch(
                    self.batch_size,
                    rank=at.rank,
                    world_size=at.world_size,
                    accumulation_step=accumulation_step,
                    accumulate_grad_batches=at.accumulate_grad_batches,
                )
                yield batch[mine.start : mine.stop]

    def _permutation(self, number: int) -> Tensor:
        generator = Generator().manual_seed(derive(self.seed, "pass", number))
        return self.order(generator) + (number * self.images if self.numbered else 0)


class HeldOutBatches(Sampler[Tensor]):
    """A rank's places of each batch of the held-out images, int64; see `ranks.held_out`."""

    def __init__(self, *, images: int, batch_size: int, place: RankLayout = RankLayout()) -> None:
        self.batches = [range(start, min(start + batch_size, images)) for start in range(0, images, batch_size)]
        self.place = place

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches:
            mine, _ = held_out(len(batch), rank=self.place.rank, world_size=self.place.world_size)
            yield torch.tensor([batch[place] for place in mine])
