"""Simulated studies without any effect, in the shape of the first study."""

from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd
from lina_lab.analysis.load.runs import StudyRuns

from lina_lab.config import StudyConfig, from_dict

Floats = npt.NDArray[np.float64]

SIZES = (16, 32, 64)
METRICS = ("val/loss_ema", "eval/fid_pixels")
POINTS = [(normalization, conv) for conv in ("none", "depthwise") for normalization in ("division", "subtraction")]
VARIANTS = [f"{normalization}, {'no convolution' if conv == 'none' else conv}" for normalization, conv in POINTS]
PAIRS = ((1, 0), (3, 2), (2, 0), (3, 1))
"""Treatment and baseline of each comparison: the normalizations, then the convolutions."""
NOISES = {
    "normal": (1.0, 1.0, 1.0),
    "t3": (1.0, 1.0, 1.0),
    "falling": (3.0, 1.0, 1 / 3),
    "rising": (1 / 3, 1.0, 3.0),
}
"""Noise -> its deviation at each size, relative to 0.02; nine times as large at one end as at the other."""
DEVIATION, LOSS = 0.02, 0.7


def null_losses(noise: str, studies: int, seeds: int, rng: np.random.Generator) -> Floats:
    """Losses of shape (studies, variants, sizes, seeds, metrics); no variant is better than another."""
    shape = (studies, len(VARIANTS), len(SIZES), seeds, len(METRICS))
    own = rng.standard_t(3, shape) / np.sqrt(3) if noise == "t3" else rng.normal(size=shape)
    common = rng.normal(size=(studies, 1, len(SIZES), seeds, len(METRICS)))
    return LOSS + DEVIATION * (common + np.array(NOISES[noise])[:, None, None] * own / np.sqrt(2))


def differences(losses: Floats) -> pd.DataFrame:
    """The paired differences of all studies, as `paired_differences` returns them for one; `axis` tells the studies."""
    studies, _, sizes, seeds, metrics = losses.shape
    treatment, baseline = (losses[:, [pair[side] for pair in PAIRS]] for side in (0, 1))
    names = ["axis", "comparison", "size", "seed", "metric"]
    ranges = [range(studies), range(len(PAIRS)), SIZES[:sizes], range(seeds), METRICS[:metrics]]
    table = pd.MultiIndex.from_product(ranges, names=names).to_frame(index=False)
    sides = np.array(VARIANTS)[np.array(PAIRS)[table["comparison"]]]
    return table.assign(
        treatment=sides[:, 0],
        baseline=sides[:, 1],
        difference=(treatment - baseline).ravel(),
        log_ratio=np.log(treatment / baseline).ravel(),
        block_se=np.nan,
    )


def study_runs(losses: Floats) -> StudyRuns:
    """One study of shape (variants, sizes, seeds, metrics) as it is read from a store, without its checkpoints."""
    _, sizes, seeds, metrics = losses.shape
    normalizations, convolutions = (list(dict.fromkeys(point[side] for point in POINTS)) for side in (0, 1))
    primary = {"axis": "normalization", "treatment": "subtraction", "baseline": "division"}
    study = from_dict(
        StudyConfig,
        {
            "name": "simulated",
            "question": "Is there nothing?",
            "axes": {
                "normalization": {"model.attention.normalization": normalizations},
                "convolution": {"model.attention.conv": convolutions},
                "size": {"model.dim": list(SIZES[:sizes])},
            },
            "size_axis": "size",
            "seeds": list(range(seeds)),
            "controlled": ["all"],
            "objectives": [{"metric": name} for name in METRICS[:metrics]],
            "primary": {**primary, "at": {"convolution": "depthwise"}},
        },
    )
    cells = [
        {
            **{"cell": f"{variant} {size} {seed}", "variant": VARIANTS[variant], "size": SIZES[size], "seed": seed},
            **dict(zip(("model.attention.normalization", "model.attention.conv"), POINTS[variant], strict=True)),
            **{"model.dim": str(SIZES[size]), "parameters": SIZES[size] ** 2},
            **dict(zip(METRICS, losses[variant, size, seed], strict=False)),
        }
        for variant, size, seed in product(*map(range, losses.shape[:3]))
    ]
    table = pd.DataFrame(cells)
    keys = ["cell", "variant", "size", "seed"]
    history = table.melt(keys, METRICS[:metrics], var_name="metric").assign(images=5120)
    none = pd.DataFrame()
    return StudyRuns(study=study, cells=table, history=history, checkpoints=none, excluded=none, source=none)
