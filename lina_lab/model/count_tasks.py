"""Parameters and operations of the tasks with one stack of blocks; see `lina_lab.model.count`."""

from dataclasses import replace

from lina_lab.config import LinaConfig
from lina_lab.model.count_parts import (
    BLOCK_NUMBERS,
    SINUSOID,
    Costs,
    Counts,
    Kept,
    attention_parameters,
    backward_too,
    mlp_parameters,
    norm_parameters,
    stack_operations,
)
from lina_lab.model.schedule import velocity_calls
from lina_lab.variants import POSITIONS, linear

MODULATIONS = 6
"""Tensors that modulate an AdaLN-zero block."""
MODULATED = 6
"""Numbers that a block keeps for the products of its modulations, a token and channel."""


def _kept(config: LinaConfig, more: int = 0) -> Kept:
    """Of one stack over all tokens; outside of it the embedded tokens, and those before the last layer."""
    block, outside = BLOCK_NUMBERS + more, 4.0 * config.num_tokens * config.dim
    return Kept(stacks=((config.depth, config.num_tokens),), block=block, outside=outside)


def _patches(config: LinaConfig) -> int:
    """Multiply-adds of the patch embedding, whose input has no gradient."""
    return config.num_tokens * config.token_dim * config.dim


def _embedding(config: LinaConfig) -> tuple[int, int]:
    """Parameters and multiply-adds of the patch embedding and the positions."""
    position, geometry = POSITIONS[config.position], config.image_geometry
    parameters = linear(config.token_dim, config.dim) + position.count_parameters(geometry)
    return parameters, _patches(config) + position.count_multiply_adds(geometry, config.num_tokens)


def _block_parameters(config: LinaConfig) -> int:
    """Of all blocks, without their norms and modulations."""
    mlp = mlp_parameters(config.dim)
    return sum(attention_parameters(config, attention) + mlp for attention in config.decoder_blocks)


def _classifier_parameters(config: LinaConfig) -> Counts:
    norms = (2 * config.depth + 1) * norm_parameters(config.dim)
    return Counts(
        condition=0,
        encoder=_embedding(config)[0],
        decoder=_block_parameters(config) + norms,
        head=linear(config.dim, config.num_classes or 0),
    )


def _classifier_loss(config: LinaConfig, mask_ratio: float | None = None) -> Counts:
    return Counts(
        condition=0,
        encoder=_embedding(config)[1],
        decoder=stack_operations(config, config.decoder_blocks, config.num_tokens),
        head=config.dim * (config.num_classes or 0),
    )


def _classifier_training(config: LinaConfig, mask_ratio: float | None = None) -> Counts:
    outside = Counts(condition=0, encoder=_patches(config), decoder=0, head=0)
    return backward_too(_classifier_loss(config), outside)


CLASSIFICATION = Costs(
    parameters=_classifier_parameters,
    embedding_parameters=lambda config: 0,
    loss_operations=_classifier_loss,
    training_operations=_classifier_training,
    kept=_kept,
)


def _tables(config: LinaConfig) -> int:
    """Parameters that are looked up: the table of classes, or the vector of no text."""
    classes = 0 if config.num_classes is None else (config.num_classes + 1) * config.dim
    return classes + (0 if config.text_dim is None else config.dim)


def _diffusion_parameters(config: LinaConfig) -> Counts:
    dim = config.dim
    time = linear(SINUSOID, dim) + linear(dim, dim)
    text = 0 if config.text_dim is None else linear(config.text_dim, dim) + linear(dim, dim) + norm_parameters(dim)
    norms = 0 if config.norm_placement == "before" else 2 * norm_parameters(dim)
    return Counts(
        condition=time + text + _tables(config),
        encoder=_embedding(config)[0],
        decoder=_block_parameters(config) + config.depth * (linear(dim, MODULATIONS * dim) + norms),
        head=linear(dim, 2 * dim) + linear(dim, config.token_dim),
    )


def _velocity(config: LinaConfig) -> Counts:
    """Multiply-adds of one velocity: its condition is the embedding of time."""
    dim = config.dim
    blocks = stack_operations(config, config.decoder_blocks, config.num_tokens)
    return Counts(
        condition=SINUSOID * dim + dim**2,
        encoder=_embedding(config)[1],
        decoder=blocks + config.depth * MODULATIONS * dim**2,
        head=2 * dim**2 + config.num_tokens * dim * config.token_dim,
    )


def _text(config: LinaConfig) -> tuple[int, int]:
    """Multiply-adds of the text's MLP, and of its first layer, whose input has no gradient."""
    first = config.text_length * (config.text_dim or 0) * config.dim
    return first + (0 if config.text_dim is None else config.text_length * config.dim**2), first


def _diffusion_loss(config: LinaConfig, mask_ratio: float | None = None) -> Counts:
    once = _velocity(config)
    return replace(once, condition=once.condition + _text(config)[0])


def _diffusion_training(config: LinaConfig, mask_ratio: float | None = None) -> Counts:
    first = _text(config)[1] + SINUSOID * config.dim
    return backward_too(_diffusion_loss(config), Counts(condition=first, encoder=_patches(config), decoder=0, head=0))


def _diffusion_generation(
    config: LinaConfig, *, steps: int = 1, flow_steps: int = 25, guided: bool = False, solver: str = "euler"
) -> Counts:
    # The unconditional pass has no text, and the same embedding of time.
    calls, passes, once = velocity_calls(flow_steps, solver), 2 if guided else 1, _velocity(config)
    repeated = {name: calls * passes * value for name, value in vars(once).items()}
    return Counts(**repeated | {"condition": calls * once.condition + _text(config)[0]})


DIFFUSION = Costs(
    parameters=_diffusion_parameters,
    embedding_parameters=_tables,
    loss_operations=_diffusion_loss,
    training_operations=_diffusion_training,
    kept=lambda config: _kept(config, MODULATED),
    generation_operations=_diffusion_generation,
)
