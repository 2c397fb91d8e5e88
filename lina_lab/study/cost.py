"""FLOPs and memory of a cell, from its configuration alone."""

from functools import lru_cache

from lina_lab.config import LinaConfig, TrialConfig
from lina_lab.model import count
from lina_lab.model.schedule import num_masked

STATE_BYTES = 20
"""Bytes a parameter: weight, gradient, two moments and the moving average, in float32."""
BLOCK_ACTIVATIONS = 24
"""Numbers that a block keeps for its backward pass, a token and channel: about 10 in attention, 14 elsewhere."""
HEAD_ACTIVATIONS = 12
"""Likewise for a block of the flow head, a noised token and channel."""


@lru_cache(maxsize=4096)
def flops_per_image(model: LinaConfig) -> int:
    """FLOPs of training on one image, two for a multiply-add."""
    return count.FLOPS_PER_MULTIPLY_ADD * count.training_operations(model).total


@lru_cache(maxsize=4096)
def parameters(model: LinaConfig) -> int:
    """All parameters, the frozen ones included."""
    return count.parameters(model).total


def training_flops(config: TrialConfig) -> float:
    """FLOPs of a whole trial's training."""
    return float(flops_per_image(config.model)) * config.images_seen


def memory_bytes(config: TrialConfig, devices: int = 1) -> float:
    """A rough estimate for one device: the states of the parameters, and what a step keeps for its backward pass."""
    model, images = config.model, config.data.batch_size / devices
    masked = num_masked(0.85, model.num_tokens)
    tokens = model.num_tokens + model.condition_tokens
    visible = tokens - masked
    per_image = (
        model.dim
        * BLOCK_ACTIVATIONS
        * (model.condition_depth * (model.condition_tokens + 1) + model.depth // 2 * (visible + tokens))
    )
    flow = model.flow_dim or model.dim
    per_image += HEAD_ACTIVATIONS * flow * model.flow_depth * masked * model.noise_samples_per_token
    width = 2 if config.trainer.precision == "bf16-mixed" else 4
    return STATE_BYTES * parameters(model) + width * images * per_image
