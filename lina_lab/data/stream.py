"""The order of the training images: a function of the seed and the step, and of nothing else."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor
from torch.utils.data import Sampler

from lina_lab.seeds import derive


class StepBatches(Sampler[Tensor]):
    """Indices of the images of given optimizer steps: int64 [batch_size] a step.

    The stream is one permutation of all images after another, each drawn from (seed, pass); batches run across their
    borders, so no image is seen twice before all were seen once.
    """

    def __init__(self, *, images: int, batch_size: int, steps: range, seed: int) -> None:
        self.images, self.batch_size, self.steps, self.seed = images, batch_size, steps, seed

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Tensor]:
        passes: dict[int, Tensor] = {}
        for step in self.steps:
            places = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
            needed = range(int(places[0]) // self.images, int(places[-1]) // self.images + 1)
            passes = {number: passes.get(number, self._permutation(number)) for number in needed}
            order = torch.cat(list(passes.values()))
            yield order[places - needed.start * self.images]

    def _permutation(self, number: int) -> Tensor:
        generator = Generator().manual_seed(derive(self.seed, "pass", number))
        return torch.randperm(self.images, generator=generator)
