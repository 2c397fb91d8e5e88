"""The primary comparison as a weighted sum of losses, seed by seed."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Protocol


class Term(Protocol):
    """One loss of a contrast; `lina_lab.config.verdict.ContrastTerm` is one."""

    @property
    def values(self) -> Mapping[str, Any]:
        """Field -> value, for every field that the axes vary."""

    @property
    def weight(self) -> float:
        """What the loss is multiplied by."""


def contrast_values(terms: Sequence[Term], cells: Iterable[tuple[Mapping[str, Any], int, float]]) -> dict[int, float]:
    """The weighted sum of the terms' losses for each seed.

    Args:
        terms: losses that are added up. A cell is a term's if it has the term's value in each of the term's fields;
            values are compared as they are.
        cells: (field -> value, seed, loss) of each cell. A loss that is NaN or infinite is a missing one.

    Returns:
        Seed -> sum, in the order of the seeds, for the seeds of which every term has a finite loss.

    Raises:
        ValueError: there are no terms, or two cells of one seed belong to one term.
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
    seeds = sorted(set.intersection(*map(set, losses)))
    return {
        seed: sum(term.weight * found[seed] for term, found in zip(terms, losses, strict=True))
        for seed in seeds
        if all(isfinite(found[seed]) for found in losses)
    }
