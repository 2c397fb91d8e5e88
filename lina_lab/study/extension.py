"""A study that goes on with the cells of another one: equal but for a larger budget, none of them is trained twice."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml

from lina_lab.config import SamplingConfig, TrialConfig, from_stored
from lina_lab.config.continuation import differences
from lina_lab.config.history import PLACES
from lina_lab.config.schedules import problem_of_going_on
from lina_lab.config.start import StartConfig
from lina_lab.records.files import CONFIG_FILE
from lina_lab.records.record import read_record
from lina_lab.records.status import CellStatus
from lina_lab.records.weights import locate


@dataclass(frozen=True)
class Extension:
    """The study that is extended."""

    folder: Path
    """Its folder."""

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise ValueError(f"study.extends={self.folder.name}: there is no such study in {self.folder.parent}")

    @cached_property
    def _done(self) -> dict[str, list[tuple[Path, TrialConfig]]]:
        """A trial whatever its budget and schedule -> its cells that are done, the fewest images first."""
        found: dict[str, list[tuple[Path, TrialConfig]]] = {}
        for file in self.folder.glob(f"*/{CONFIG_FILE}"):
            record = read_record(file.parent, file.parent.name)
            if record is not None and record.status is CellStatus.DONE:
                config = from_stored(TrialConfig, yaml.load(file.read_text(), yaml.CSafeLoader))
                found.setdefault(_without_budget(config), []).append((file.parent, config))
        return {key: sorted(cells, key=lambda cell: cell[1].images_seen) for key, cells in found.items()}

    def extended(self, config: TrialConfig) -> TrialConfig:
        """The trial as it goes on with a cell of the study; unchanged where the study has none that is done.

        Raises:
            ValueError: no cell has the rates of the trial, or the last one has seen as many images as it asks for.
        """
        cells = self._done.get(_without_budget(config), [])
        if not cells:
            return config
        problems = [problem_of_going_on(config, source, source.images_seen) for _, source in cells]
        fitting = [cell for cell, problem in zip(cells, problems, strict=True) if problem is None]
        if not fitting:
            raise ValueError(
                f"study.extends={self.folder.name}: {cells[-1][0].name} cannot be extended: {problems[-1]}"
            )
        folder, images = fitting[-1][0], fitting[-1][1].images_seen
        if [source.images_seen for _, source in fitting].count(images) > 1:
            raise ValueError(
                f"study.extends={self.folder.name}: {folder.name} was trained twice to measure rounding, and which of "
                "both goes on is not certain"
            )
        if images >= config.images_seen:
            raise ValueError(
                f"study.extends={self.folder.name}: its cell {folder.name} has seen {images:,} images, and "
                f"trainer.max_images={config.trainer.max_images} asks for no more"
            )
        source = StartConfig(source=str(folder), sha256=locate(str(folder)).sha256, state="training")
        return replace(config, start=source)

    def check_any(self, configs: Iterable[TrialConfig]) -> None:
        """Refuse a study of which no cell goes on, since its cells would all be trained from the start.

        Args:
            configs: the trials as they are to be trained.

        Raises:
            ValueError: names a field in which they differ from those of the study.
        """
        wanted = list(configs)
        if not wanted or any(config.start.state == "training" for config in wanted):
            return
        done = [config for cells in self._done.values() for _, config in cells]
        if not done:
            raise ValueError(f"study.extends={self.folder.name}: none of its cells is done")
        fields = min((differences(now, then) for now in wanted for then in done), key=len)
        raise ValueError(
            f"study.extends={self.folder.name}: no cell goes on, since they differ in more than the budget: "
            f"{'; '.join(fields[:3])}"
        )


def images_of(config: TrialConfig, runs: Path) -> int:
    """Images that the source of a trial has seen whose training goes on; 0: it begins at its start.

    Args:
        config: the trial.
        runs: folder of all results.
    """
    start = config.start
    if start.source is None or start.state != "training":
        return 0
    try:
        located = locate(start.source, runs)
    except ValueError:
        return 0  # `preflight` refuses the source; of a cell that is done it may be gone
    steps = re.fullmatch(r"step-(\d+)(\.weights)?", located.path.stem)
    # It has the trial's batch size, or the trial is refused.
    return 0 if steps is None else int(steps[1]) * config.data.batch_size


def _without_budget(config: TrialConfig) -> str:
    """What a trial computes at each step, whatever it goes on with, for how long and with which rates at its end."""
    start = StartConfig() if config.start.state == "training" else config.start
    anywhere = dict.fromkeys(PLACES)
    plain = replace(
        config,
        optimizer=replace(config.optimizer, schedule="constant", cooldown=None, final_rate=0.0),
        ema=replace(config.ema, lengths=(), snapshot_every_images=None),
        trainer=replace(config.trainer, max_images=1, val_every_images=1),
        # One step, which an image of any size allows.
        sampling=SamplingConfig(ar_steps=1),
        start=start,
    )
    return json.dumps([plain.config_hash(anywhere)])
