"""The work of `lina coordinates`, see `commands.coordinates`."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lina_lab.commands.coordinates import CoordinatesConfig
from lina_lab.config import TrialConfig, from_dict
from lina_lab.training.coordinates import LIMIT, PARAMETRIZATIONS, coordinates, growth
from lina_lab.util.files import atomic

MODEL: dict[str, Any] = {
    "latent_channels": 1,
    "latent_size": [8, 8],
    "patch_size": 2,
    "dim": 32,
    "num_heads": 2,
    "condition_depth": 1,
    "depth": 2,
    "flow_depth": 1,
    "num_classes": 10,
    "noise_samples_per_token": 2,
}
"""The model of the base width: heads of 16 channels, one block a stack, 16 image tokens."""
TITLES = {"standard": "standard", "mup": "muP"}


def run(config: CoordinatesConfig) -> int:
    """Measure, print the table and the verdict, and draw the figure; returns 1 if the check fails.

    Raises:
        ValueError: fewer than two widths, or fields that make no model.
        OSError: the folder cannot be written.
    """
    if len(set(config.widths)) < 2 or len(set(config.widths)) < len(config.widths):
        raise ValueError(f"widths={list(config.widths)} must be two or more different widths")
    torch.set_num_threads(1)
    table = coordinates(trial(config), sorted(config.widths), steps=config.steps, seeds=range(config.seeds))
    ratios, folder = growth(table), Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "coordinates.csv", index=False)
    draw(table, folder / "coordinates.png")
    print(as_text(table, ratios))
    passed = bool(ratios["mup"].max() <= LIMIT)
    for parametrization, title in TITLES.items():
        worst = str(ratios[parametrization].idxmax())
        print(f"{title}: the largest ratio over widths is {ratios[parametrization].max():.2f} ({worst})")
    print(f"{'passed' if passed else 'failed'}: under muP no ratio may be above {LIMIT}. Figure: {config.out}")
    return 0 if passed else 1


def trial(config: CoordinatesConfig) -> TrialConfig:
    """The trial of the base width.

    Raises:
        ValueError: fields that make no model.
    """
    return from_dict(
        TrialConfig,
        {
            "model": {**MODEL, **(config.model or {})},
            "data": {"batch_size": config.batch_size},
            "optimizer": {"lr": config.lr},
        },
    )


def as_text(table: pd.DataFrame, ratios: pd.DataFrame) -> str:
    """A line a layer, with its activations and the ratio over widths; the largest ratio under muP comes first."""
    wide = table.pivot(index="layer", columns=["parametrization", "width"], values="activation")
    shown = pd.DataFrame(index=ratios.sort_values("mup", ascending=False).index)
    for parametrization, title in TITLES.items():
        for width, values in wide[parametrization].items():
            shown[f"{title} {width}"] = values
        shown[f"{title} ratio"] = ratios[parametrization]
    return str(shown.to_markdown(floatfmt=".3f"))


def draw(table: pd.DataFrame, path: Path) -> None:
    """Activations relative to those at the smallest width, against width: a panel a parametrization, a line a layer."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with plt.style.context(str(files("lina_lab.analysis") / "report" / "figures.mplstyle")):
        figure, panels = plt.subplots(1, 2, figsize=(6.4, 3.2), sharey=True)
        for axes, parametrization in zip(panels, PARAMETRIZATIONS, strict=True):
            part = table[table["parametrization"] == parametrization]
            wide = part.pivot(index="width", columns="layer", values="activation")
            relative = wide / wide.iloc[0]
            axes.axhspan(1 / LIMIT, LIMIT, color="0.9")
            axes.plot(relative.index, relative, color="tab:blue", alpha=0.5, linewidth=0.8)
            axes.set(title=TITLES[parametrization], xlabel="width", xscale="log", yscale="log")
            axes.set_xticks(relative.index, [str(width) for width in relative.index])
            axes.set_yticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
            axes.minorticks_off()
        panels[0].set_ylabel("mean |activation|, relative")
        with atomic(path) as draft:
            figure.savefig(draft, format="png")
        plt.close(figure)
