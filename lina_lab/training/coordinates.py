"""The coordinate check of muP (arXiv 2203.03466, appendix D.1): the size of activations after a few steps, over widths.

Under muP the mean |activation| of each kind of layer is about the same at every width. In the standard parametrization it
grows with the width after a few steps at one learning rate.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lina_lab.config import LinaConfig, TrialConfig
from lina_lab.data import make_data
from lina_lab.model import LINA, initialize, sample_step_inputs
from lina_lab.training.optimizers import make_optimizer

LIMIT = 1.3
"""Largest ratio of mean |activation| over widths that passes."""


def coordinates(config: TrialConfig, widths: Iterable[int], *, steps: int, seeds: Iterable[int]) -> pd.DataFrame:
    """Train models of several widths for a few steps under both parametrizations, and measure their activations.

    Args:
        config: the trial; its model gives the base width and the channels of a head.
        widths: multiples of these channels.
        steps: optimizer steps before the measurement.
        seeds: of weights and data; activations are means over them.

    Returns:
        A row for each (parametrization, width, layer) with `activation`, the mean |activation|. Layers of one kind in
        several blocks are one.

    Raises:
        ValueError: a width is not possible.
    """
    rows = []
    for width in widths:
        for parametrization in ("standard", "mup"):
            found = defaultdict[str, list[float]](list)
            for seed in seeds:
                trial = replace(config, model=at_width(config.model, width, parametrization), seed=seed)
                for layer, value in _activations(trial, steps).items():
                    found[layer].append(value)
            rows += [
                {"parametrization": parametrization, "width": width, "layer": layer, "activation": sum(v) / len(v)}
                for layer, v in found.items()
            ]
    return pd.DataFrame(rows)


def at_width(model: LinaConfig, width: int, parametrization: str) -> LinaConfig:
    """The model at another width, with the same channels of a head; its `dim` is the base width of muP.

    Raises:
        ValueError: the width is not a multiple of the channels of a head, or makes no model.
    """
    if width % model.head_dim:
        raise ValueError(f"width {width} is not a multiple of the {model.head_dim} channels of a head")
    changes: dict[str, Any] = {"parametrization": parametrization, "base_dim": None}
    if parametrization == "mup":
        changes["base_dim"] = model.dim
    return replace(model, dim=width, num_heads=width // model.head_dim, **changes)


def growth(table: pd.DataFrame) -> pd.DataFrame:
    """For each layer the ratio of its largest to its smallest activation over widths; a column a parametrization."""
    over_widths = table.groupby(["layer", "parametrization"], sort=False)["activation"]
    return (over_widths.max() / over_widths.min()).unstack()[["standard", "mup"]]


def _activations(config: TrialConfig, steps: int) -> dict[str, float]:
    """Mean |activation| of each kind of layer in the forward pass after `steps` optimizer steps."""
    model = LINA(config.model)
    initialize(model, config.seed)
    optimizer = make_optimizer(model, config.optimizer)
    batches = iter(_batches(config, steps + 1))
    for step in range(steps):
        _loss(model, config, next(batches), step).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad(), _recorded(model) as found:
        _loss(model, config, next(batches), steps)
    return {layer: sum(values) / len(values) for layer, values in found.items()}


def _batches(config: TrialConfig, steps: int) -> Iterator[Any]:
    """The first batches of a trial."""
    data = make_data(config)
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(steps):
        yield data.train_set[torch.randint(data.images, (config.data.batch_size,), generator=generator)]


def _loss(model: LINA, config: TrialConfig, batch: Any, step: int) -> Tensor:
    latents, condition = batch
    inputs = sample_step_inputs(config.model, seed=config.seed, step=step, images=range(len(latents)))
    return model.loss_from_inputs(latents, inputs, **condition)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, list[float]]]:
    """The mean |output| of each call of a module while the context lasts, by the module's name without numbers."""
    found, handles = defaultdict[str, list[float]](list), []

    def record(layer: str, output: Any) -> None:
        if isinstance(output, Tensor):
            found[layer].append(float(output.abs().mean()))

    for name, module in model.named_modules():
        if name:
            layer = re.sub(r"\.\d+(?=\.|$)", "", name)
            handles.append(module.register_forward_hook(lambda m, i, output, layer=layer: record(layer, output)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
