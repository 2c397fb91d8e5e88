"""Speed of several ranks: `python benchmarks/ranks.py [ranks=[1,2]] [size=cpu128] [rounds=3]`.

One cell is trained by 1, 2, ... ranks of this machine, each with one thread; then under plain torchrun, which shows
the cost of the launcher. It prints rates, the efficiency against one rank, and the parts of a step's time.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS, DataConfig, LinaConfig, ResourcesConfig, TrialConfig, from_dict, to_dict
from lina_lab.config.checks import PositiveInt
from lina_lab.config.grammar import Command
from lina_lab.config.presets import SIZES
from lina_lab.launch.contract import EngineName, LaunchSpec, read_outcome
from lina_lab.launch.group import GroupLaunch
from lina_lab.launch.torchrun import OneMachine
from lina_lab.records.files import CONFIG_FILE
from lina_lab.records.result import TrialResult

TABLE_FILE = "ranks.csv"
LAUNCHER, TORCHRUN = "seam", "torchrun"
"""Values of the column `how`, as in tables of version 0.1."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class RanksBenchConfig:
    """What the command takes."""

    ranks: tuple[PositiveInt, ...] | list[PositiveInt] = (1, 2)
    """Numbers of ranks."""
    size: str = "cpu128"
    """A preset of the model."""
    batch_size: PositiveInt = 64
    """Images of a step, over all ranks."""
    steps: PositiveInt = 40
    """Steps of a run."""
    rounds: PositiveInt = 3
    """Runs of each, interleaved."""
    out: str = "reports/bench"
    """Where the table goes."""

    def __post_init__(self) -> None:
        trial(self)
        for ranks in self.ranks:
            ResourcesConfig(devices=ranks).check_batch(self.batch_size)


def trial(config: RanksBenchConfig) -> TrialConfig:
    """What is trained: the preset on the digits, one validation at the end."""
    if config.size not in SIZES:
        raise ValueError(f"size={config.size} is not one of {', '.join(SIZES)}")
    model = {
        "latent_channels": 1,
        "latent_size": [8, 8],
        "num_classes": 10,
        "noise_samples_per_token": 2,
        **SIZES[config.size],
    }
    images = config.batch_size * config.steps
    base = TrialConfig(model=from_dict(LinaConfig, model), data=DataConfig(batch_size=config.batch_size, val_images=60))
    return replace(
        base,
        trainer=replace(base.trainer, max_images=images, val_every_images=images),
        sampling=replace(base.sampling, images_per_class=0),
    )


def run(config: TrialConfig, ranks: int, how: str) -> dict[str, Any]:
    """Train once; a row of the table."""
    resources = ResourcesConfig(devices=ranks, accelerator="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / CONFIG_FILE).write_text(yaml.safe_dump(to_dict(config)))
        start = time.perf_counter()
        result = _by_launcher(config, folder, resources) if how == LAUNCHER else _by_torchrun(folder, resources)
        seconds = time.perf_counter() - start
    return {
        "ranks": ranks,
        "how": how,
        "images_per_second": result.images_per_second,
        "step_ms": 1e3 * result.step_seconds,
        "data_ms": 1e3 * result.data_seconds,
        "communication_ms": 1e3 * (result.communication_seconds or 0.0),
        "outside_fit_s": seconds - result.fit_seconds,
    }


def _by_launcher(config: TrialConfig, folder: Path, resources: ResourcesConfig) -> TrialResult:
    launch = GroupLaunch(OneMachine(), resources, print)
    return launch(config, folder, tracking=None, report=lambda progress: None)


def _by_torchrun(folder: Path, resources: ResourcesConfig) -> TrialResult:
    spec = LaunchSpec(attempt="plain", engine=EngineName.TORCHRUN, tracking=None, resources=resources)
    spec.write(folder)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={resources.devices}"]
    subprocess.run([*torchrun, "-m", "lina_lab.launch.rank", str(folder)], check=True, capture_output=True)
    result = read_outcome(folder, spec)
    assert result is not None
    return result


def measure(config: RanksBenchConfig) -> pd.DataFrame:
    """A row for each run."""
    subject = trial(config)
    # Every rank has one thread, also where there is one rank.
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    for number in range(config.rounds):
        for ranks in config.ranks:
            for how in (LAUNCHER, TORCHRUN):
                rows.append({"size": config.size, "round": number, **run(subject, ranks, how)})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> str:
    """Medians over the rounds, and ratios of interleaved runs."""
    columns = ["images_per_second", "step_ms", "data_ms", "communication_ms", "outside_fit_s"]
    medians = table.groupby(["how", "ranks"])[columns].median()
    ours = medians.loc[LAUNCHER]
    lines = [medians.round(2).to_markdown(), ""]
    first = ours.index[0]
    for ranks in ours.index[1:]:
        gain = ours.loc[ranks, "images_per_second"] / ours.loc[first, "images_per_second"]
        lines.append(f"{ranks} ranks against {first}: {gain:.2f} x images/s, efficiency {gain * first / ranks:.0%}")
    for ranks in ours.index:
        plain, mine = medians.loc[(TORCHRUN, ranks)], ours.loc[ranks]
        lines.append(
            f"{ranks} ranks, the launcher against plain torchrun: step {mine['step_ms'] / plain['step_ms']:.3f} x, "
            f"{mine['outside_fit_s'] - plain['outside_fit_s']:+.1f} s outside of training"
        )
    return "\n".join(lines)


def bench(config: RanksBenchConfig) -> int:
    """Measure, write the table, print its summary; 0.

    Raises:
        OSError: the folder cannot be made, which is found before anything is measured.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    table = measure(config)
    table.to_csv(out / TABLE_FILE, index=False)
    print(summary(table))
    return 0


COMMAND = Command(config=RanksBenchConfig, run=bench, doc=__doc__, errors=(OSError,))

if __name__ == "__main__":
    sys.exit(COMMAND.main(sys.argv[1:]))
