"""FLOPs, memory and disk of a cell, from its configuration alone."""

from functools import lru_cache
from math import ceil

from lina_lab.config import LinaConfig, ResourcesConfig, SamplingConfig, TrialConfig
from lina_lab.config.optimizers import OPTIMIZERS
from lina_lab.model import count

flops_per_image, training_flops = count.flops_per_image, count.training_flops
flops_with_sources = count.flops_with_sources
ONE_DEVICE = ResourcesConfig()
STATE_BYTES = 20
"""Bytes a parameter: weight, gradient, two moments and the moving average, in float32."""
AVERAGE_BYTES = 4
"""Bytes a parameter of each average in `ema.profiles`: in memory, in checkpoints and in snapshots."""
BUCKET_BYTES = 4
"""Bytes a parameter of DDP's buckets, in which gradients are sent."""
CAST_BYTES = 2
"""Bytes a parameter of the copies in bfloat16 that autocast keeps until the backward pass. FSDP shards none of them."""
WHOLE_BYTES = 8
"""Bytes a parameter of a block that FSDP has gathered: weight and gradient."""
TEACHER_BYTES = 4
"""Bytes a parameter of the frozen model that a trial is distilled from, which every device has whole."""
FLOAT_BYTES = 4
"""Bytes of a number in a checkpoint."""
GRID_CAPTIONS = 8
"""Captions in the grid of samples, see `training.callbacks.sample_grid`."""


@lru_cache(maxsize=4096)
def parameters(model: LinaConfig) -> int:
    """All parameters, the frozen ones included."""
    return count.parameters(model).total


def other_flops(config: TrialConfig, resources: ResourcesConfig = ONE_DEVICE) -> float:
    """FLOPs of a whole trial's validations and generated images, on all devices together.

    Autoencoder, features of generated images and text encoder are not counted.
    """
    model, sampling = config.model, config.sampling
    validation = config.epochs * 2 * config.data.val_images * _loss_flops(model)
    every = sampling.quality_every_images
    times = 1 if every is None else min(config.epochs, ceil(config.images_seen / every))
    # Sharded weights need all ranks for each image, so each rank generates all of them.
    alone = resources.world_size if resources.strategy == "fsdp" else 1
    rows = model.num_classes or (GRID_CAPTIONS if model.text_dim is not None else 1)
    guided = model.conditional and (sampling.guidance_scale, sampling.guidance_scale_start) != (1.0, 1.0)
    plain, chosen = (_generation_flops(model, sampling, guided=each) for each in (False, guided))
    grid = resources.world_size * rows * sampling.images_per_class * chosen
    measured = times * alone * (sampling.quality_images * plain + sampling.caption_images * chosen)
    lengths = len(config.ema.lengths)
    rebuilt = lengths * (config.data.val_images * _loss_flops(model) + alone * sampling.quality_images * plain)
    return float(validation + grid + measured + rebuilt)


@lru_cache(maxsize=4096)
def _loss_flops(model: LinaConfig) -> int:
    return count.FLOPS_PER_MULTIPLY_ADD * count.loss_operations(model).total


@lru_cache(maxsize=4096)
def _generation_flops(model: LinaConfig, sampling: SamplingConfig, *, guided: bool) -> int:
    operations = count.generation_operations(
        model, steps=sampling.ar_steps, flow_steps=sampling.ode_steps, guided=guided, solver=sampling.ode_solver
    )
    return count.FLOPS_PER_MULTIPLY_ADD * operations.total


def micro_batch(config: TrialConfig, resources: ResourcesConfig) -> int:
    """Images that a device has in memory at a time."""
    return ceil(config.data.batch_size / (resources.world_size * resources.accumulate_grad_batches))


def memory_bytes(config: TrialConfig, resources: ResourcesConfig = ONE_DEVICE) -> float:
    """A rough estimate for one device: the states of the parameters, and what a step keeps for its backward pass."""
    return _state_bytes(config, resources) + _activation_bytes(config, resources)


def _state_bytes(config: TrialConfig, resources: ResourcesConfig) -> float:
    model, total = config.model, parameters(config.model)
    cast = CAST_BYTES if config.trainer.precision == "bf16-mixed" else 0
    state = STATE_BYTES + AVERAGE_BYTES * len(config.ema.profiles)
    # About as large as its student.
    teacher = (TEACHER_BYTES + cast) * total if config.start.distills else 0
    if resources.strategy == "fsdp":
        # One block computes while the next one is gathered; what belongs to no block is whole throughout.
        attention = max(count.attention_parameters(model, each) for each in model.decoder_blocks)
        block = attention + 2 * count.MLP_RATIO * model.dim**2
        whole = min(2 * block + count.embedding_parameters(model), total)
        return total * (state / resources.world_size + cast) + WHOLE_BYTES * whole + teacher
    return total * (state + cast + (BUCKET_BYTES if resources.world_size > 1 else 0)) + teacher


def _activation_bytes(config: TrialConfig, resources: ResourcesConfig) -> float:
    model, found = config.model, count.kept(config.model)
    blocks = sum(depth * tokens for depth, tokens in found.stacks)
    if model.gradient_checkpointing:
        # The inputs of all blocks, and one block that is computed again.
        numbers = blocks + found.block * max(tokens for _, tokens in found.stacks)
    else:
        numbers = found.block * blocks
    width = 2 if config.trainer.precision == "bf16-mixed" else 4
    return float(width * micro_batch(config, resources) * (model.dim * numbers + found.outside))


def checkpoint_bytes(config: TrialConfig) -> float:
    """Size of one checkpoint on disk: the weights, their averages, and the moments of the optimizer."""
    averages = FLOAT_BYTES + AVERAGE_BYTES * len(config.ema.profiles)
    return weight_bytes(config) + averages * parameters(config.model) + moment_bytes(config)


def weight_bytes(config: TrialConfig) -> float:
    """Size of a model's weights on disk."""
    return FLOAT_BYTES * parameters(config.model)


def moment_bytes(config: TrialConfig) -> float:
    """Size of the moments of the optimizer in a checkpoint."""
    return FLOAT_BYTES * OPTIMIZERS[config.optimizer.name].moments * parameters(config.model)


def snapshot_bytes(config: TrialConfig) -> float:
    """Size on disk of all snapshots of the averages in `ema.profiles`."""
    return AVERAGE_BYTES * len(config.ema.profiles) * parameters(config.model) * len(config.ema_snapshots)
