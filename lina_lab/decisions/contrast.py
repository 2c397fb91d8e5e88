"""The primary comparison as a weighted sum of losses, or of their logarithms, seed by seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan, log, log1p, nan
from typing import Any, Literal, Protocol

from lina_lab.decisions.sequential import MeanInterval
from lina_lab.decisions.tuning import Direction, widened


class Term(Protocol):
    """One loss of a contrast; `lina_lab.config.primary.ContrastTerm` is one."""

    @property
    def values(self) -> Mapping[str, Any]:
        """Field -> value, for every field that the axes vary."""

    @property
    def weight(self) -> float:
        """What the loss, or its logarithm, is multiplied by."""

    @property
    def scale(self) -> Literal["linear", "log"]:
        """Whether the loss is added up as it is, or its natural logarithm."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A comparison of the losses of cells."""

    values: Mapping[int, float]
    """Seed -> the weighted sum, in the order of the seeds, for the seeds of which every term has a finite loss."""
    levels: tuple[float, ...]
    """Each term's mean loss over these seeds; NaN without seeds."""


def contrast(terms: Sequence[Term], cells: Iterable[tuple[Mapping[str, Any], int, float]]) -> Contrast:
    """Add up the terms' losses for each seed.

    Args:
        terms: losses that are added up. A cell is a term's if it has the term's value in each of the term's fields;
            values are compared as they are.
        cells: (field -> value, seed, loss) of each cell. A loss that is NaN or infinite is a missing one.

    Raises:
        ValueError: there are no terms, two cells of one seed belong to one term, or a loss is not positive whose
            logarithm is compared.
    """
    if not terms:
        raise ValueError("a comparison needs at least one term")
    losses: list[dict[int, float]] = [{} for _ in terms]
    for values, seed, loss in cells:
        for term, found in zip(terms, losses, strict=True):
            if all(name in values and values[name] == value for name, value in term.values.items()):
                if seed in found:
                    raise ValueError(f"two cells of seed {seed} have {dict(term.values)}")
                found[seed] = float(loss)
    common = set.intersection(*map(set, losses))
    seeds = sorted(seed for seed in common if all(isfinite(found[seed]) for found in losses))
    sums = {
        seed: sum(term.weight * _scaled(term, seed, found[seed]) for term, found in zip(terms, losses, strict=True))
        for seed in seeds
    }
    means = (sum(found[seed] for seed in seeds) / len(seeds) if seeds else nan for found in losses)
    return Contrast(values=sums, levels=tuple(means))


def _scaled(term: Term, seed: int, loss: float) -> float:
    if term.scale == "linear":
        return loss
    if loss <= 0:
        raise ValueError(
            f"scale=log compares logarithms, and the value of seed {seed} with {dict(term.values)} is {loss}"
        )
    return log(loss)


def widened_contrast(
    interval: MeanInterval,
    terms: Sequence[Term],
    levels: Sequence[float],
    regrets: Sequence[float],
    direction: Direction,
) -> MeanInterval:
    """The interval of a contrast between variants at their own best values, rather than at the chosen ones.

    Args:
        interval: that at the chosen values.
        terms: the losses that are added up.
        levels: each term's mean loss.
        regrets: by how much each term's loss may be worse than at its best value, see `tuning.Choice`; 0 for a term
            that was not tuned. One that is NaN, thus unknown, widens nothing.
        direction: that of the objective.
    """
    sides = {True: 0.0, False: 0.0}
    for term, level, regret in zip(terms, levels, regrets, strict=True):
        if not isnan(regret):
            sides[term.weight > 0] += abs(term.weight) * _scaled_regret(term, level, regret, direction)
    return widened(interval, sides[True], sides[False], direction)


def _scaled_regret(term: Term, level: float, regret: float, direction: Direction) -> float:
    """How far the term's loss is from its best one, on the term's scale."""
    if term.scale == "linear" or regret == 0:
        return regret
    if direction == "maximize":
        return log1p(regret / level)
    # At a loss of zero or less, which the bound does not rule out, a logarithm has no bound.
    return -log1p(-regret / level) if regret < level else inf
