"""Whether the best learning rate moves with width: `python benchmarks/rate_transfer.py [widths=[32,64,128,256]]`.

Hypothesis: from the smallest to the largest width the best rate moves by less than one step of the grid (a factor of 2)
under muP, whose base width is the smallest, and falls in the standard parametrization.

Each point is a trial as `lina run` trains it (warm-up, moving average), on the digits in patches of 2 x 2. At each
width the search starts at the best rate of the width before, and goes on until the lowest mean loss has two neighbors
on both sides. The best rate is the minimum of the parabola in log rate through it and its direct neighbors.
"""

import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS, TrialConfig, from_dict
from lina_lab.config.checks import PositiveFloat, PositiveInt
from lina_lab.config.grammar import Command
from lina_lab.training.trial import run_trial

REACH = 2
"""Neighbors of the best rate that are tried on both sides: one spike of the loss must not end the search."""
OFFSETS = range(-REACH, REACH + 1)
FARTHEST = 8
"""Powers of 2 that the search may go from its start."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class RateTransferConfig:
    """Fields of the benchmark."""

    widths: tuple[PositiveInt, ...] = (32, 64, 128, 256)
    """Widths; the first is muP's base width."""
    start: PositiveFloat = 4e-3
    """Learning rate at which the search starts; rates are this times powers of 2."""
    head_channels: PositiveInt = 16
    """Channels of a head at every width."""
    steps: PositiveInt = 100
    """Optimizer steps of a trial."""
    batch_size: PositiveInt = 16
    """Images of a step."""
    seeds: PositiveInt = 1
    """Seeds of each point; losses are means over them."""
    normalization: str = "subtraction"
    """Normalization of the linear attention."""
    out: str = "reports/bench/rate_transfer.csv"
    """Table of all losses."""


def trial(config: RateTransferConfig, parametrization: str, width: int, rate: float, seed: int) -> TrialConfig:
    """One trial of the benchmark; at base width, where both are the same, that of the standard parametrization."""
    images = config.steps * config.batch_size
    scaled = parametrization == "mup" and width != config.widths[0]
    model: dict[str, Any] = {
        "latent_channels": 1,
        "latent_size": [8, 8],
        "patch_size": 2,
        "dim": width,
        "num_heads": width // config.head_channels,
        "condition_depth": 1,
        "depth": 2,
        "flow_depth": 1,
        "num_classes": 10,
        "noise_samples_per_token": 2,
        "attention": {"normalization": config.normalization, "conv_kernel": 3},
        "parametrization": "mup" if scaled else "standard",
        "base_dim": config.widths[0] if scaled else None,
    }
    return from_dict(
        TrialConfig,
        {
            "model": model,
            "data": {"batch_size": config.batch_size},
            "optimizer": {"lr": rate, "warmup_images": images // 8},
            "ema": {"decay": 0.9, "every_n_steps": 2},
            "trainer": {"max_images": images, "val_every_images": images, "divergence_factor": 1e6},
            "sampling": {"images_per_class": 0},
            "seed": seed,
        },
    )


KNOWN: dict[str, float] = {}
"""Config hash -> loss of the trials that were trained."""
Losses = dict[int, list[float]]
"""Exponent i of a rate `start * 2^i` -> the loss of each seed; infinite where a trial diverged."""


def losses_around(config: RateTransferConfig, parametrization: str, width: int, middle: int) -> Losses:
    """Losses around `middle`, and on to where the lowest mean loss has `REACH` neighbors on both sides."""
    found: Losses = {}
    wanted = [middle + offset for offset in OFFSETS]
    while wanted:
        for exponent in wanted:
            rate = config.start * 2.0**exponent
            found[exponent] = [loss(trial(config, parametrization, width, rate, seed)) for seed in range(config.seeds)]
        lowest = min(found, key=lambda exponent: statistics.mean(found[exponent]))
        wanted = [lowest + offset for offset in OFFSETS if lowest + offset not in found]
        if max(map(abs, wanted), default=0) > FARTHEST:
            raise ValueError(
                f"{parametrization}, width {width}: no best rate within 2^{FARTHEST} of start={config.start}"
            )
    return dict(sorted(found.items()))


def loss(config: TrialConfig) -> float:
    """The validation loss of the averaged weights at the end of a trial; infinite where it diverged."""
    key = config.config_hash()
    if key not in KNOWN:
        with tempfile.TemporaryDirectory() as folder:
            KNOWN[key] = run_trial(config, Path(folder)).metrics.get("val/loss_ema", math.inf)
    return KNOWN[key]


def best_exponent(losses: Losses) -> float:
    """The minimum of the parabola in log rate through the lowest mean loss and its neighbors."""
    means = {exponent: statistics.mean(values) for exponent, values in losses.items()}
    lowest = min(means, key=means.__getitem__)
    left, middle, right = (means[lowest + i] for i in (-1, 0, 1))
    if not math.isfinite(left + right):
        return float(lowest)
    return lowest + (left - right) / (2 * (left - 2 * middle + right))


def measure(config: RateTransferConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Search for the best rate of each parametrization and width.

    Returns:
        All losses, a row for each trial; and the best rates, with how far each is from that of the first width.
    """
    trials, best = [], []
    for parametrization in ("standard", "mup"):
        first, middle = None, 0
        for width in config.widths:
            losses = losses_around(config, parametrization, width, middle)
            exponent = best_exponent(losses)
            first, middle = exponent if first is None else first, round(exponent)
            row = {"parametrization": parametrization, "width": width}
            best.append(row | {"best rate": config.start * 2**exponent, "moved by factors of 2": exponent - first})
            for i, values in losses.items():
                rate = config.start * 2.0**i
                trials += [row | {"rate": rate, "seed": seed, "loss": value} for seed, value in enumerate(values)]
            print(f"{best[-1]}, {time.process_time():,.0f} CPU-seconds so far", file=sys.stderr)
    return pd.DataFrame(trials), pd.DataFrame(best)


def run(config: RateTransferConfig) -> int:
    """Measure, write the table of losses, and print it; returns 0."""
    torch.set_num_threads(1)
    trials, best = measure(config)
    out = Path(config.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    trials.to_csv(out, index=False)
    means = trials.groupby(["parametrization", "width", "rate"], sort=False)["loss"].mean().unstack()
    print(means.sort_index(axis="columns").to_markdown(floatfmt=".4f"))
    print(best.to_markdown(index=False, floatfmt=".3g"))
    print(f"{time.process_time():,.0f} CPU-seconds; losses: {out}")
    return 0


COMMAND = Command(config=RateTransferConfig, run=run, doc=__doc__)

if __name__ == "__main__":
    sys.exit(COMMAND.main(sys.argv[1:]))
