"""What makes a number of a trial mean less than its name says, known from the configuration before anything is trained.

Nothing here changes what a trial computes. A metric that would mean nothing is refused as a study's objective; the rest
is said by `lina plan`, at the start of `lina run` and in reports.
"""

from collections.abc import Iterator

from lina_lab.config.datasets import DATA_SETS, having
from lina_lab.config.metrics import METRICS
from lina_lab.config.optimizers import OPTIMIZERS
from lina_lab.config.resources import ResourcesConfig
from lina_lab.config.schedules import problem_of_budget
from lina_lab.config.tasks import MODULE
from lina_lab.config.trial import TrialConfig

SLOW, MEANINGLESS = 0.2, 0.9
"""Share of the first step in the averaged weights from which it is said, and above which they cannot be compared."""

IMAGES_PER_STREAM = 32
"""`model.inputs.IMAGES_PER_GENERATOR`: images of a step that share a random stream."""
SEVERAL = 1.0
"""Pairs of equal random streams from which it is said."""


def first_share(trial: TrialConfig) -> float:
    """The share of the averaged (EMA) weights at the end that is the weights after the first step.

    The average starts as a copy of these, and each update leaves `ema.decay` of what it was.
    """
    updates = (trial.max_steps - 1) // trial.ema.every_n_steps
    return float(trial.ema.decay**updates)


def repeated_streams(trial: TrialConfig) -> float:
    """How many pairs of a trial's random streams are expected to be equal, where generators take 32 bits of a seed."""
    if trial.trainer.rng_version != 1:
        return 0.0
    streams = trial.max_steps * -(-trial.data.batch_size // IMAGES_PER_STREAM)
    # Each image has a stream of its own in each pass.
    streams += trial.images_seen if DATA_SETS[trial.data.name].cached_latents else 0
    return float(streams**2 / 2**33)


def guides_untrained(trial: TrialConfig) -> bool:
    """Whether guidance would mix in the "no class" or "no text" of a model that never trained it."""
    sampling = trial.sampling
    guided = (sampling.guidance_scale, sampling.guidance_scale_start) != (1.0, 1.0)
    return guided and trial.model.conditional and not trial.model.guidable


def meaningless(trial: TrialConfig, metric: str) -> str | None:
    """Why an objective of this metric would compare nothing, as the end of a sentence; None: it would."""
    if METRICS[metric].weights == "averaged" and first_share(trial) > MEANINGLESS:
        return f"would measure {_average(trial)}: give ema.every_n_steps or ema.decay a smaller value"
    return None


def refusal(trial: TrialConfig) -> str | None:
    """Why the trial cannot train or measure what it asks for, as a sentence; None: it can.

    Not a check of the configuration alone: the budget may come from a study's.
    """
    if (too_short := problem_of_budget(trial)) is not None:
        return too_short
    if trial.sampling.caption_images and guides_untrained(trial):
        return (
            f"sampling.guidance_scale={trial.sampling.guidance_scale:g} and sampling.guidance_scale_start="
            f"{trial.sampling.guidance_scale_start:g} need a model that has trained without its text, and "
            "model.condition_dropout=0 never drops it: give both scales 1, or drop some"
        )
    return None


def unsharded(trial: TrialConfig, resources: ResourcesConfig) -> str | None:
    """Why the trial's weights cannot be sharded, or whole, as its resources say, as a sentence; None: they can."""
    if resources.strategy == "fsdp" and trial.model.kind.module_name != MODULE:
        return (
            f"model.task={trial.model.task} has a LightningModule of its own, which study.resources.strategy=fsdp "
            "cannot shard: take strategy=ddp"
        )
    if resources.strategy == "fsdp" and OPTIMIZERS[trial.optimizer.name].matrices:
        return (
            f"optimizer.name={trial.optimizer.name} needs whole matrices, and study.resources.strategy=fsdp shards "
            "them: take strategy=ddp"
        )
    if resources.strategy != "fsdp" and trial.checkpoint.distributed:
        return (
            f"checkpoint.distributed=true writes shards, and study.resources.strategy={resources.strategy} has none: "
            "take strategy=fsdp, or checkpoint.distributed=false"
        )
    return None


def cautions(trial: TrialConfig) -> tuple[str, ...]:
    """A sentence for each number of the trial that means less than its name says."""
    return tuple(_cautions(trial))


def _cautions(trial: TrialConfig) -> Iterator[str]:
    optimizer, sampling = trial.optimizer, trial.sampling
    if first_share(trial) > SLOW:
        yield f"val/loss_ema and generated images are of {_average(trial)}"
    if trial.data.flip and not (trial.model.kind.augments or DATA_SETS[trial.data.name].mirrors):
        # Not refused: earlier versions took it without a word, and a study may be under way with it.
        yield f"data.flip=true changes nothing: it is for {having('mirrors')} and for task=classification"
    if optimizer.warmup_images > trial.images_seen:
        yield (
            f"optimizer.warmup_images={optimizer.warmup_images:,} is more than the {trial.images_seen:,} images of the "
            f"budget: the learning rate ends at {trial.images_seen / optimizer.warmup_images:.0%} of "
            f"optimizer.lr={optimizer.lr:g}"
        )
    if trial.trainer.log_every_n_steps > trial.max_steps:
        yield (
            f"trainer.log_every_n_steps={trial.trainer.log_every_n_steps:,} is more than the {trial.max_steps:,} "
            "optimizer steps: the training loss has no curve"
        )
    if (pairs := repeated_streams(trial)) >= SEVERAL:
        yield (
            f"trainer.rng_version=1 seeds with 32 bits: about {pairs:,.0f} pairs of the random streams of training are "
            "equal; trainer.rng_version=2 seeds with all"
        )
    if sampling.images_per_class and guides_untrained(trial):
        yield (
            "the sample grid is drawn without guidance, which needs a model that has trained without its condition, "
            "and model.condition_dropout=0 never drops it"
        )


def _average(trial: TrialConfig) -> str:
    """The averaged weights and what they consist of."""
    share = f"{first_share(trial):.0%}" if first_share(trial) < 1 else "all"
    return (
        f"averaged weights (EMA), {share} of which are those after the first step: ema.every_n_steps="
        f"{trial.ema.every_n_steps} and ema.decay={trial.ema.decay:g} are too slow for {trial.max_steps:,} optimizer "
        "steps"
    )
