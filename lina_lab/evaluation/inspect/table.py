"""A model looked at on a batch of frozen inputs: a long table, maps of gates and of some rows of attention.

Shapes: B images, H heads, R query rows, T tokens, N image tokens.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lina_lab.config import LinaConfig
from lina_lab.evaluation.inspect.capture import Look, Settings, watched
from lina_lab.evaluation.inspect.quantities import QUANTITIES, Quantity

QUANTILES = (0.05, 0.5, 0.95)
COLUMNS = ["part", "block", "head", "quantity", "statistic", "value", "rows", "sampled"]
"""Of the table. `head` is a number or "all"; `statistic` is mean, q05, q50, q95, or uniform, which is the mean where
all weights are equal; `rows` counts the numbers behind a value; `sampled` is the share of the query rows looked at."""
BUDGET = 2**23
"""Numbers of an attention matrix that are held at once."""
MAP_QUERIES = ((0.5, 0.5), (0.25, 0.75), (0.0, 0.0))
"""Places of the queries whose rows are drawn, as shares of the grid's rows and columns."""
Numbers = NDArray[np.float64]


@dataclass
class Findings:
    """What was found, as it grows over batches."""

    values: dict[tuple[str, int, str], list[Numbers]] = field(default_factory=lambda: defaultdict(list))
    """(part, block, quantity) -> a part for each batch, [H or 1, numbers]."""
    uniform: dict[tuple[str, int, str], list[Numbers]] = field(default_factory=lambda: defaultdict(list))
    """The same with equal weights, all numbers of a batch."""
    sampled: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    """(part, block) -> share of the query rows that were looked at, for each batch."""
    gates: dict[str, list[Numbers]] = field(default_factory=lambda: defaultdict(list))
    """part.block.what -> the gate's weights, [images, H, T], for each batch; where tokens have fixed places."""
    maps: dict[str, Numbers] = field(default_factory=dict)
    """part.block -> rows of the first image's image tokens at `MAP_QUERIES`, mean over heads, [queries, rows,
    columns]."""
    grids: dict[str, tuple[int, int]] = field(default_factory=dict)
    """part.block -> the grid of its image tokens."""

    def visit(self, look: Look) -> None:
        """Measure everything of one attention on one batch."""
        self.sampled[look.part, look.block].append(len(look.rows) / look.tokens)
        for quantity in QUANTITIES.values():
            self._measure(quantity, look)
        self.grids[look.name] = look.grid
        if look.places.shape[1] == look.grid[0] * look.grid[1] and look.part != "encoder":
            for name, gate in look.gates().items():
                self.gates[f"{look.name}.{name}"].append(gate.cpu().numpy())
            if look.name not in self.maps:
                self.maps[look.name] = _maps(look)

    def _measure(self, quantity: Quantity, look: Look) -> None:
        key = (look.part, look.block, quantity.name)
        if (found := quantity.measure(look)) is None:
            return
        if not bool(torch.isfinite(found).all()):
            raise ValueError(
                f"{quantity.name} of block {look.name} is not finite: the attention gives zeros or no number"
            )
        self.values[key].append(found.transpose(0, 1).flatten(1).cpu().numpy())
        if quantity.of_weights is not None:
            equal = look.matrix.new_full((1,), 1.0).expand_as(look.matrix[:, :1])
            reference = quantity.of_weights(look, equal)
            assert reference is not None
            self.uniform[key].append(reference.flatten().cpu().numpy())

    def table(self) -> pd.DataFrame:
        """A row for each block, head, quantity and statistic; see `COLUMNS`."""
        return pd.DataFrame(list(self._rows()), columns=COLUMNS)

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for (part, block, quantity), parts in self.values.items():
            by_head = np.concatenate(parts, axis=1)
            sampled = float(np.mean(self.sampled[part, block]))
            for number, values in enumerate(by_head):
                head = number if QUANTITIES[quantity].by_head else "all"
                quantiles = zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
                statistics = {"mean": values.mean()} | {f"q{q * 100:02.0f}": value for q, value in quantiles}
                for statistic, value in statistics.items():
                    yield part, block, head, quantity, statistic, float(value), len(values), sampled
            if equal := self.uniform.get((part, block, quantity)):
                numbers = np.concatenate(equal)
                yield part, block, "all", quantity, "uniform", float(numbers.mean()), len(numbers), sampled

    def mean_gates(self) -> dict[str, Numbers]:
        """part.block.what -> the gate's weights [H, T], mean over the images."""
        return {name: np.concatenate(parts).mean(0) for name, parts in self.gates.items()}


def inspect_model(
    model: Any,
    batches: Iterable[tuple[Tensor, Any, dict[str, Tensor]]],
    settings: Settings | None = None,
    report: Callable[[int], object] = lambda images: None,
) -> Findings:
    """Look at all attentions of a model, which is left as it was.

    Args:
        model: of any task, its blocks not compiled.
        batches: latents, loss inputs and condition, on the model's device; see `validation_batches`.
        settings: how closely is looked.
        report: called with the number of images after each batch.

    Raises:
        ValueError: a quantity is not a finite number.
    """
    findings = Findings()
    with torch.no_grad(), watched(model, settings or Settings(), findings.visit):
        for latents, inputs, condition in batches:
            model.loss_from_inputs(latents, inputs, **condition)
            report(len(latents))
    return findings


def batch_size(config: LinaConfig, settings: Settings) -> int:
    """Images of a batch whose attention matrices stay within `BUDGET`."""
    tokens = config.num_tokens + config.condition_tokens + (config.text_length if config.text_dim else 1)
    return max(1, int(BUDGET // (config.num_heads * min(settings.rows, tokens) * tokens)))


def query_places(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """Row and column of the queries whose rows are drawn."""
    return [(int(a * (grid[0] - 1)), int(b * (grid[1] - 1))) for a, b in MAP_QUERIES]


def _maps(look: Look) -> Numbers:
    """Rows of the first image at `MAP_QUERIES`."""
    rows, columns = look.grid
    places = torch.tensor([row * columns + column for row, column in query_places(look.grid)], device=look.x.device)
    matrix = look.call.matrix(places + look.condition_tokens)[0, :, :, look.condition_tokens :]
    found: Numbers = matrix.mean(0).reshape(-1, rows, columns).cpu().numpy()
    return found
