"""The coordinate check of muP (arXiv 2203.03466, appendix D.1): activations after a few steps, over widths.

Under muP the mean |activation| of each kind of layer is about the same at every width. In the standard parametrization
it grows with the width after a few steps at one learning rate.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lina_lab.config import LinaConfig, TrialConfig
from lina_lab.data import make_data
from lina_lab.data.modules.base import StepDataModule
from lina_lab.model import initialize, make_model, sample_step_inputs
from lina_lab.training.optimizers import make_optimizer

LIMIT = 1.3
"""Largest ratio of mean |activation| over widths that passes."""
PARAMETRIZATIONS = ("standard", "mup")


def coordinates(config: TrialConfig, widths: Sequence[int], *, steps: int, seeds: Sequence[int]) -> pd.DataFrame:
    """Train models of several widths for a few steps under both parametrizations, and measure their activations.

    Args:
        config: the trial; its model gives the base width and the channels of a head.
        widths: multiples of these channels.
        steps: optimizer steps before the measurement.
        seeds: of weights and batches; activations are their means.

    Returns:
        A row for each (parametrization, width, layer) with `activation`, the mean |activation|. Layers of one kind in
        several blocks are one.

    Raises:
        ValueError: a width makes no model.
    """
    data, rows = make_data(config), []
    for parametrization in PARAMETRIZATIONS:
        for width in widths:
            model, means = at_width(config.model, width, parametrization), defaultdict[str, float](float)
            for seed in seeds:
                for layer, value in _activations(replace(config, model=model, seed=seed), data, steps).items():
                    means[layer] += value / len(seeds)
            point = {"parametrization": parametrization, "width": width}
            rows += [point | {"layer": layer, "activation": value} for layer, value in means.items()]
    return pd.DataFrame(rows)


def at_width(model: LinaConfig, width: int, parametrization: str) -> LinaConfig:
    """The model at another width, with the same channels of a head; its `dim` is the base width of muP.

    Raises:
        ValueError: the width is not a multiple of the channels of a head, or makes no model.
    """
    if width % model.head_dim:
        raise ValueError(f"width {width} is not a multiple of the {model.head_dim} channels of a head")
    changes: dict[str, Any] = {"parametrization": parametrization}
    changes["base_dim"] = model.dim if parametrization == "mup" else None
    return replace(model, dim=width, num_heads=width // model.head_dim, **changes)


def growth(table: pd.DataFrame) -> pd.DataFrame:
    """For each layer the ratio of its largest to its smallest activation over widths; a column a parametrization.

    The ratio is 1 for a layer that is zero at every width, as those that start at zero are after one step.
    """
    over_widths = table.groupby(["layer", "parametrization"], sort=False)["activation"]
    return (over_widths.max() / over_widths.min()).fillna(1.0).unstack()[[*PARAMETRIZATIONS]]


def _activations(config: TrialConfig, data: StepDataModule, steps: int) -> dict[str, float]:
    """Mean |activation| of each kind of layer in the forward pass after `steps` optimizer steps."""
    model = make_model(config.model)
    initialize(model, config.seed)
    optimizer = make_optimizer(model, config.optimizer)
    generator = torch.Generator().manual_seed(config.seed)
    batches = torch.randint(data.images, (steps + 1, config.data.batch_size), generator=generator)
    for step, batch in enumerate(batches[:-1]):
        _loss(model, config, data.train_set[batch], step).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad(), _recorded(model) as found:
        _loss(model, config, data.train_set[batches[-1]], steps)
    return {layer: sum(values) / len(values) for layer, values in found.items()}


def _loss(model: Any, config: TrialConfig, batch: Any, step: int) -> Tensor:
    latents, condition = batch
    inputs = sample_step_inputs(config.model, seed=config.seed, step=step, images=range(len(latents)))
    loss: Tensor = model.loss_from_inputs(latents, inputs, **condition)
    return loss


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, list[float]]]:
    """The mean |output| of the calls of all modules while the context lasts, by the module's name without numbers."""
    found, seen, handles = defaultdict[str, list[float]](list), list[Tensor](), []

    def record(layer: str, output: Any) -> None:
        # A module that returns what its last part returned is the same layer; with a mask ratio of 1 some get nothing.
        if isinstance(output, Tensor) and output.numel() and not (seen and output is seen[-1]):
            found[layer].append(float(output.abs().mean()))
            seen[:] = [output]

    for name, module in model.named_modules():
        layer = re.sub(r"\.\d+(?=\.|$)", "", name)
        handles.append(module.register_forward_hook(lambda m, i, output, layer=layer: record(layer, output)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
