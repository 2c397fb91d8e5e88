"""A piece of evaluation that the ranks of a trial share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from lina_lab.evaluation.moments import Moments, merged
from lina_lab.training.module import LinaModule
from lina_lab.util.partition import share

T = TypeVar("T")


@dataclass(frozen=True)
class WorkPartition:
    """The ranks that share a piece of work."""

    rank: int = 0
    world_size: int = 1
    """1: this process works alone."""

    @classmethod
    def of(cls, module: LinaModule) -> "WorkPartition":
        """All ranks; or each for itself, where weights are sharded and every image needs all ranks."""
        return cls() if module.device_mesh is not None else cls(module.global_rank, module.trainer.world_size)

    def mine(self, count: int) -> range:
        """This rank's indices of `count`."""
        return share(count, self.rank, self.world_size)

    def together(self, mine: list[T]) -> list[T]:
        """The lists of all ranks joined, in the order of their indices."""
        if self.world_size == 1:
            return mine
        found: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(found, mine)
        return [each for part in found for each in part]

    def moments(self, count: int, batch_size: int, of: Callable[[range], Moments]) -> Moments:
        """The moments of the features of `count` images, of which each rank computes a share.

        Args:
            count: number of images.
            batch_size: images of one call of `of`.
            of: the moments of the images with some indices.
        """
        indices = self.mine(count)
        parts = (of(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size))
        return merged(self.together([merged(parts)] if indices else []))
