"""What is measured of each attention, by name; packages of others add theirs by the group `lina_lab.quantities`.

A quantity is a function of a `Look`. It returns float64 [B, H, R] or [B, 1, R], where R are query rows, tokens or
nothing (1), or None where the attention does not have it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from lina_lab.evaluation.inspect import measures, replay
from lina_lab.evaluation.inspect.capture import Look
from lina_lab.util.registry import OpenRegistry


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number that says what an attention does."""

    name: str
    title: str
    """In figures."""
    unit: str
    """Such as nats, tokens or share."""
    documentation: str
    """One sentence: what it is."""
    low: float
    """The least value that it can have, up to rounding."""
    high: float
    """The largest one."""
    measure: Callable[[Look], Tensor | None]
    """See the module."""
    of_weights: Callable[[Look, Tensor], Tensor | None] | None = None
    """The same for any rows [B, H, R, T] in place of the attention's own, for those that equal weights are a reference
    for."""
    by_head: bool = True
    """Whether each head has its own."""
    logarithmic: bool = False
    """Whether its axis is, in figures."""

    def check(self) -> None:
        """Refuse an entry that is not complete.

        Raises:
            ValueError: it has no sentence, or no range.
        """
        if not self.documentation or not self.low < self.high:
            raise ValueError(f"quantity {self.name} needs a sentence and low < high")


QUANTITIES: OpenRegistry[Quantity] = OpenRegistry("quantity", "lina_lab.quantities", Quantity)
INFINITE = float("inf")


def _near(side: int) -> Callable[[Look, Tensor], Tensor | None]:
    def measure(look: Look, rows: Tensor) -> Tensor | None:
        on_grid = look.on_grid(rows)
        return measures.near_share(on_grid, look.offset, side) if on_grid.numel() else None

    return measure


def _distance(look: Look, rows: Tensor) -> Tensor | None:
    on_grid = look.on_grid(rows)
    return measures.mean_distance(on_grid, look.offset) if on_grid.numel() else None


def _of_matrix(measure: Callable[[Look, Tensor], Tensor | None]) -> dict[str, Any]:
    """Fields of a quantity of the matrix that equal weights are a reference for."""
    return {"measure": lambda look: measure(look, look.matrix), "of_weights": measure}


def _alike(look: Look) -> Tensor | None:
    settings, queries = look.settings, look.call.qkv[0][:, :, look.rows[look.pairs]]
    rows = look.matrix[:, :, look.pairs]
    return measures.alike_rows(rows, queries, unlike=settings.unlike, alike=settings.alike).unsqueeze(-1)


def _doubled(look: Look) -> Tensor:
    return measures.relative_change(look.matrix, look.call.doubled().matrix(look.rows))


def _rank(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else measures.effective_rank(matrix).unsqueeze(-1)


def _of_rows(look: Look, tokens_BHT: Tensor | None) -> Tensor | None:
    return None if tokens_BHT is None else tokens_BHT[..., look.rows]


def _gate(name: str) -> Callable[[Look], Tensor | None]:
    def measure(look: Look) -> Tensor | None:
        gate = look.gates().get(name)
        return None if gate is None else (gate[..., look.rows] - 1).abs()

    return measure


def _convolution(look: Look) -> Tensor | None:
    found = look.convolution()
    return None if found is None else measures.energy_share(*found)[..., look.rows]


def _field(share: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Look], Tensor | None]:
    def measure(look: Look) -> Tensor | None:
        found = look.receptive_field()
        return None if found is None else share(*found)

    return measure


for entry in (
    Quantity(
        name="row_entropy",
        title="entropy of a row",
        unit="nats",
        documentation="entropy of a query's weights, by absolute value; ln T where all T tokens weigh the same",
        low=0,
        high=INFINITE,
        **_of_matrix(lambda look, rows: measures.row_entropy(rows)),
    ),
    Quantity(
        name="near_3x3",
        title="weight within 3 x 3",
        unit="share",
        documentation="share of a query's weight on image tokens that is in the 3 x 3 tokens around it",
        low=0,
        high=1,
        **_of_matrix(_near(3)),
    ),
    Quantity(
        name="near_5x5",
        title="weight within 5 x 5",
        unit="share",
        documentation="share of a query's weight on image tokens that is in the 5 x 5 tokens around it",
        low=0,
        high=1,
        **_of_matrix(_near(5)),
    ),
    Quantity(
        name="distance",
        title="mean distance of the weight",
        unit="tokens",
        documentation="mean distance on the grid from a query to the image tokens, weighted by its weights",
        low=0,
        high=INFINITE,
        **_of_matrix(_distance),
    ),
    Quantity(
        name="negative",
        title="negative weight",
        unit="share",
        documentation="sum of the absolute values of a query's negative weights, by that of all its weights",
        low=0,
        high=1,
        measure=lambda look: measures.negative_share(look.matrix),
    ),
    Quantity(
        name="rank_matrix",
        title="rank of the matrix",
        unit="effective rank",
        documentation="effective rank of the attention matrix of an image",
        low=0,
        high=INFINITE,
        measure=lambda look: _rank(look.matrix),
    ),
    Quantity(
        name="rank_summary",
        title="rank of kᵀv",
        unit="effective rank",
        documentation="effective rank of the product of mapped keys and values, summed over all tokens",
        low=0,
        high=INFINITE,
        measure=lambda look: _rank(replay.summary(look.call)),
    ),
    Quantity(
        name="rank_output",
        title="rank of the outputs",
        unit="effective rank",
        documentation="effective rank of a head's outputs, tokens by channels",
        low=0,
        high=INFINITE,
        measure=lambda look: _rank(look.output),
    ),
    Quantity(
        name="denominator",
        title="denominator of division",
        unit="",
        documentation="what division divides by: the mapped query times the mean of the mapped keys, and 1e-6",
        low=-INFINITE,
        high=INFINITE,
        measure=lambda look: _of_rows(look, replay.denominator(look.call)),
        logarithmic=True,
    ),
    Quantity(
        name="rounding_gain",
        title="gain of rounding",
        unit="factor",
        documentation="by how much a relative rounding error of queries, keys and values grows in the outputs",
        low=1,
        high=INFINITE,
        measure=lambda look: _of_rows(look, replay.rounding_gain(look.call)),
        logarithmic=True,
    ),
    Quantity(
        name="alike_rows",
        title="unlike queries with like rows",
        unit="share of pairs",
        documentation="share of the pairs of unlike queries whose rows are alike; 0 if attention is injective",
        low=0,
        high=1,
        measure=_alike,
    ),
    Quantity(
        name="response_doubled",
        title="response to a doubled query",
        unit="relative change",
        documentation="relative change of a query's weights when all queries are doubled",
        low=0,
        high=INFINITE,
        measure=_doubled,
        logarithmic=True,
    ),
    *(
        Quantity(
            name=f"gate_{name}",
            title=f"gate on {what}: distance from 1",
            unit="",
            documentation=f"distance from 1 of a gate's weight on {what}",
            low=0,
            high=INFINITE,
            measure=_gate(name),
        )
        for name, what in (("key", "keys"), ("normalizer", "the normalizer's keys"), ("value", "values"))
    ),
    Quantity(
        name="convolution_energy",
        title="energy of the convolution",
        unit="share",
        documentation="share of the convolution in the squared norms of convolution and attention, which are added",
        low=0,
        high=1,
        measure=_convolution,
    ),
    *(
        Quantity(
            name=f"field_{side}x{side}",
            title=f"receptive field within {side} x {side}",
            unit="share",
            documentation=f"share of the squared gradient of a token's output, with respect to the attention's input "
            f"at image tokens, that is in the {side} x {side} tokens around it; of all heads together",
            low=0,
            high=1,
            measure=_field(partial(measures.near_share, side=side)),
            by_head=False,
        )
        for side in (3, 5)
    ),
    Quantity(
        name="field_distance",
        title="reach of the receptive field",
        unit="tokens",
        documentation="mean distance of that squared gradient from the token; of all heads together",
        low=0,
        high=INFINITE,
        measure=_field(measures.mean_distance),
        by_head=False,
    ),
):
    QUANTITIES.register(entry)
