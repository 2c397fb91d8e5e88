"""Caption accuracy during training, on shapes: the share of right images, and what chance gives."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator

from lina_lab.config import TrialConfig
from lina_lab.data.modules.base import StepDataModule
from lina_lab.data.modules.shapes import HELD_OUT
from lina_lab.data.pixels import Pixels, to_pixels
from lina_lab.data.scenes import Metadata, scene
from lina_lab.evaluation.prompts.geneval import write_results
from lina_lab.evaluation.prompts.judge import judge_all, mean_over_tasks
from lina_lab.evaluation.sampling import generate
from lina_lab.model import LINA
from lina_lab.records.files import CAPTIONS_FILE, SHUFFLED_FILE
from lina_lab.records.runstore import EVALUATION
from lina_lab.training.callbacks.ema import ExponentialAverage
from lina_lab.training.callbacks.evaluation import Evaluation
from lina_lab.training.work_partition import WorkPartition
from lina_lab.util.seeds import derive

METRIC = f"{EVALUATION}captions"
SHUFFLED = f"{EVALUATION}captions_shuffled"
CAPTION_BATCH_SIZE = 100
"""Images generated together."""


class CaptionAccuracy(Evaluation):
    """Generates an image for each of the first held-out captions, with guidance, and judges whether it is right.

    `eval/captions` is the mean over the six tasks of the share of right images. `eval/captions_shuffled` judges the
    same images by other images' captions, which is what a model reaches that ignores its text. The latest verdicts are
    kept in the trial's folder, in GenEval's format: `lina geneval` gives intervals, and compares the two.

    Args:
        config: the trial.
        average: see `Evaluation`.
        folder: the trial's.
    """

    state_key = "CaptionCheck"
    """Its name in checkpoints, since version 0.1."""

    def __init__(self, config: TrialConfig, average: ExponentialAverage, folder: Path) -> None:
        super().__init__(config, average)
        self.folder = folder

    def measure(self, model: LINA, data: StepDataModule, partition: WorkPartition) -> dict[str, float]:
        prompts = [scene(HELD_OUT, index).metadata for index in range(self.config.sampling.caption_images)]
        mine = partition.mine(len(prompts))
        batches = [mine[i : i + CAPTION_BATCH_SIZE] for i in range(0, len(mine), CAPTION_BATCH_SIZE)]
        pixels = [image for batch in batches for image in self._generate(model, data, batch, prompts)]
        names = [f"{index:05d}" for index in mine]
        own, shuffled = (
            partition.together(judge_all(pixels, [metadata[index] for index in mine], names))
            for metadata in (prompts, derangement(prompts))
        )
        if data.trainer is None or data.trainer.is_global_zero:
            write_results(self.folder / CAPTIONS_FILE, own)
            write_results(self.folder / SHUFFLED_FILE, shuffled)
        return {METRIC: mean_over_tasks(own), SHUFFLED: mean_over_tasks(shuffled)}

    def _generate(self, model: LINA, data: StepDataModule, indices: range, prompts: Sequence[Metadata]) -> Pixels:
        captions = [prompts[index]["prompt"] for index in indices]
        condition = data.condition({"captions": captions}, next(model.parameters()).device)
        generators = [Generator().manual_seed(derive("captions", index)) for index in indices]
        return to_pixels(generate(model, self.config.sampling, condition, generators, len(indices)))


def derangement(prompts: Sequence[Metadata]) -> list[Metadata]:
    """The same prompts in an order in which none keeps its index."""
    order = torch.randperm(len(prompts), generator=Generator().manual_seed(derive("captions", "shuffled"))).tolist()
    other = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [prompts[other[index]] for index in range(len(prompts))]
