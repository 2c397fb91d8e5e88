"""Cells that start from other cells of the same study."""

from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, Checked

# A value of an axis is a number in YAML and on the command line.
Name = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class StagesConfig(Checked):
    """Which points of an axis start from the weights of which others: the cells of the same seed and of the same values
    of all other axes."""

    axis: str
    """The axis."""
    starts: Annotated[dict[str, Name], Field(min_length=1)]
    """Point -> the point that it starts from, both by their labels, such as {48 px: 24 px, 24 px: 12 px}. How it starts
    is said by the fields `start.*` of the axis or of the whole study; they are ignored for points that start from
    drawn weights."""
    not_compared: list[Name] = field(default_factory=list)
    """Points that are trained for those that start from them alone, and enter no comparison."""
    same_flops: dict[str, Name] = field(default_factory=dict)
    """Point -> another point: its budget is that of the other with all that the other started from, in training FLOPs,
    rounded to the nearest image."""

    def _problems(self) -> Iterator[str]:
        for point in self.starts:
            passed, source = [point], self.starts.get(point)
            while source is not None and source not in passed:
                passed.append(source)
                source = self.starts.get(source)
            if source is not None:
                yield f"starts: {' from '.join([*passed, source])} is a circle"
        for point in self.not_compared:
            if point not in self.starts.values():
                yield f"not_compared: no point starts from {point}"
        for point, other in self.same_flops.items():
            if point in self.starts or point == other or other in self.same_flops:
                yield (
                    f"same_flops: {point} starts from drawn weights and has the budget of another point, whose own "
                    "budget is given"
                )

    def problems_of_names(self, points: Sequence[str]) -> Iterator[str]:
        """A sentence for each name that is not one of the axis' points."""
        named = [*self.starts.items(), *self.same_flops.items()]
        for name in dict.fromkeys([*(part for pair in named for part in pair), *self.not_compared]):
            if name not in points:
                yield f"stages: {self.axis} has no value {name}; it has {', '.join(points)}"

    def lineage(self, point: str) -> list[str]:
        """The points that a point starts from: the nearest first."""
        found, source = list[str](), self.starts.get(point)
        while source is not None:
            found.append(source)
            source = self.starts.get(source)
        return found
