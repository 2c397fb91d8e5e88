"""Whether images in training are what their captions ask for, on shapes: the checker's score, and what chance gives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.modules.shapes import HELD_OUT
from lina_lab.data.scenes import Metadata, scene
from lina_lab.evaluation.prompts.shapes import judged, mean_over_tasks, write_results
from lina_lab.evaluation.sampling import Pixels, to_pixels
from lina_lab.model import LINA
from lina_lab.records.files import CAPTIONS_FILE, SHUFFLED_FILE
from lina_lab.records.runstore import EVALUATION
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.callbacks.evaluation import Evaluation, WorkPartition
from lina_lab.util.seeds import derive

METRIC = f"{EVALUATION}captions"
SHUFFLED = f"{EVALUATION}captions_shuffled"
PORTION = 100


class CaptionAccuracy(Evaluation):
    """Generates an image for each of the first held-out captions, with guidance, and looks whether it is right.

    `eval/captions` is the mean of the six kinds' shares of right images; `eval/captions_shuffled` is that of the same
    images held against captions of others, which is what a model has that ignores its text. The last verdicts stand in
    the trial's folder, in GenEval's format: `lina geneval` gives intervals, and compares the two.

    Args:
        config: the trial.
        average: see `Evaluation`.
        folder: the trial's.
    """

    @property
    def state_key(self) -> str:
        """Its name in checkpoints, since version 0.1."""
        return "CaptionCheck"

    def __init__(self, config: TrialConfig, average: ExponentialAverage, folder: Path) -> None:
        super().__init__(config, average)
        self.folder = folder

    def measure(self, model: LINA, data: StepDataModule, crew: WorkPartition) -> dict[str, float]:
        asked = [scene(HELD_OUT, place).metadata for place in range(self.config.sampling.caption_images)]
        mine = crew.mine(len(asked))
        portions = [mine[i : i + PORTION] for i in range(0, len(mine), PORTION)]
        pixels = [image for part in portions for image in self._drawn(model, data, part, asked)]
        names = [f"{place:05d}" for place in mine]
        right, chance = (
            crew.together(judged(pixels, [wanted[place] for place in mine], names))
            for wanted in (asked, shuffled(asked))
        )
        if data.trainer is None or data.trainer.is_global_zero:
            write_results(self.folder / CAPTIONS_FILE, right)
            write_results(self.folder / SHUFFLED_FILE, chance)
        return {METRIC: mean_over_tasks(right), SHUFFLED: mean_over_tasks(chance)}

    def _drawn(self, model: LINA, data: StepDataModule, places: range, asked: Sequence[Metadata]) -> Pixels:
        sampling, device = self.config.sampling, next(model.parameters()).device
        condition: dict[str, Any] = data.condition({"captions": [asked[place]["prompt"] for place in places]}, device)
        images = model.generate(
            **condition,
            steps=sampling.ar_steps,
            flow_steps=sampling.ode_steps,
            guidance=sampling.guidance_scale,
            min_guidance=sampling.guidance_scale_start,
            generator=[Generator().manual_seed(derive("captions", place)) for place in places],
        )
        return to_pixels(images)


def shuffled(asked: Sequence[Metadata]) -> list[Metadata]:
    """The same captions, each with an image that is not its own."""
    order = torch.randperm(len(asked), generator=Generator().manual_seed(derive("captions", "shuffled"))).tolist()
    other = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [asked[other[place]] for place in range(len(asked))]
