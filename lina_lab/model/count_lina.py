"""Parameters and operations of LINA, task=generation; see `lina_lab.model.count`.

Counted is the model as it is defined, with all tokens in each block. The code leaves out what nobody reads: output
projection and MLP of the last decoder block at tokens without a z, and an unconditional pass where the guidance is 1.
"""

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
from lina_lab.model.schedule import mean_mask_ratio, num_masked, step_schedule, velocity_calls
from lina_lab.variants import POSITIONS, linear

TEXT_ROWS = 512
HEAD_NUMBERS = 12
"""Numbers that a block of the flow head keeps for its backward pass, a noised token and channel."""


def parameters(config: LinaConfig) -> Counts:
    """See `count.parameters`."""
    dim, flow = config.dim, config.flow_dim or config.dim
    blocks = [
        sum(
            attention_parameters(config, attention) + mlp_parameters(dim) + 2 * norm_parameters(dim)
            for attention in stack
        )
        for stack in (config.condition_blocks, config.encoder_blocks, config.decoder_blocks)
    ]
    prefix = 0
    if config.num_classes is not None:
        prefix = (config.num_classes + 1) * dim + norm_parameters(dim)
    if config.text_dim is not None:
        prefix = TEXT_ROWS * config.text_dim + linear(config.text_dim, dim) + norm_parameters(dim)
    position = POSITIONS[config.position]
    time_zero = linear(SINUSOID, dim) + linear(dim, dim) + norm_parameters(dim) if position.time_zero else 0
    positions = [position.count_parameters(g) for g in (config.condition_geometry, config.image_geometry)]
    patches = linear(4 * config.token_dim, dim)
    flow_block = linear(flow, 3 * flow) + 2 * linear(flow, flow) + norm_parameters(flow)
    return Counts(
        condition=prefix + dim + time_zero + positions[0] + patches + blocks[0] + norm_parameters(dim),
        encoder=linear(config.token_dim, dim) + dim + positions[1] + blocks[1],
        decoder=blocks[2] + norm_parameters(dim),
        head=linear(config.token_dim, flow)
        + linear(SINUSOID, flow)
        + linear(dim, flow)
        + 2 * linear(flow, flow)
        + config.flow_depth * flow_block
        + linear(flow, 2 * flow)
        + linear(flow, config.token_dim),
    )


def embedding_parameters(config: LinaConfig) -> int:
    """Of the tables of classes and of absent text, start and mask token."""
    classes = 0 if config.num_classes is None else (config.num_classes + 1) * config.dim
    return classes + (config.text_dim or 0) * TEXT_ROWS + 2 * config.dim


def _condition_operations(config: LinaConfig) -> int:
    dim, prefix, embedding = config.dim, 0, 0
    if config.num_classes is not None:
        prefix = 1
    if config.text_dim is not None:
        prefix, embedding = config.text_length, config.text_length * config.text_dim * dim
    positions = POSITIONS[config.position].count_multiply_adds(config.condition_geometry, config.condition_tokens)
    return embedding + positions + stack_operations(config, config.condition_blocks, prefix + config.condition_tokens)


def _head_operations(config: LinaConfig) -> tuple[int, int, int]:
    """Multiply-adds of the flow head: for each z, for each timestep, and for each noised token."""
    flow = config.flow_dim or config.dim
    for_z, for_level = config.dim * flow + flow**2, SINUSOID * flow + flow**2
    return for_z, for_level, 2 * config.token_dim * flow + config.flow_depth * 5 * flow**2 + 2 * flow**2


def _encode_operations(config: LinaConfig, visible: int) -> tuple[int, int]:
    """Multiply-adds of encoder and decoder with `visible` tokens known."""
    encoder = visible * config.token_dim * config.dim
    encoder += POSITIONS[config.position].count_multiply_adds(config.image_geometry, config.num_tokens)
    encoder += stack_operations(config, config.encoder_blocks, config.condition_tokens + visible)
    tokens = config.condition_tokens + config.num_tokens
    return encoder, stack_operations(config, config.decoder_blocks, tokens)


def _masked(config: LinaConfig, mask_ratio: float | None) -> int:
    """Masked tokens at a ratio; None: at the mean of the training distribution."""
    return num_masked(mean_mask_ratio() if mask_ratio is None else mask_ratio, config.num_tokens)


def loss_operations(config: LinaConfig, mask_ratio: float | None = None) -> Counts:
    """See `count.loss_operations`."""
    masked = _masked(config, mask_ratio)
    encoder, decoder = _encode_operations(config, config.num_tokens - masked)
    for_z, for_level, for_token = _head_operations(config)
    head = masked * (for_z + config.noise_samples_per_token * (for_level + for_token))
    return Counts(condition=_condition_operations(config), encoder=encoder, decoder=decoder, head=head)


def training_operations(config: LinaConfig, mask_ratio: float | None = None) -> Counts:
    """See `count.training_operations`.

    The constant vector of the condition grid is left out, since it is computed once for a batch.
    """
    forward, masked = loss_operations(config, mask_ratio), _masked(config, mask_ratio)
    flow, text = config.flow_dim or config.dim, (config.text_dim or 0) * config.text_length
    outside = Counts(
        condition=text * config.dim,
        encoder=(config.num_tokens - masked) * config.token_dim * config.dim,
        decoder=0,
        head=masked * config.noise_samples_per_token * (config.token_dim + SINUSOID) * flow,
    )
    return backward_too(forward, outside)


def generation_operations(
    config: LinaConfig, *, steps: int = 64, flow_steps: int = 25, guided: bool = False, solver: str = "euler"
) -> Counts:
    """See `count.generation_operations`."""
    passes, calls = 2 if guided else 1, velocity_calls(flow_steps, solver)
    known = [0, *step_schedule(config.num_tokens, steps)]
    encodings = [_encode_operations(config, visible) for visible in known[:-1]]
    for_z, for_level, for_token = _head_operations(config)
    tokens = config.num_tokens * (for_z + calls * for_token)
    levels = calls * for_level
    return Counts(
        condition=passes * _condition_operations(config),
        encoder=passes * sum(encoder for encoder, _ in encodings),
        decoder=passes * sum(decoder for _, decoder in encodings),
        head=passes * tokens + levels,
    )


def kept(config: LinaConfig) -> Kept:
    """What a step keeps for its backward pass, at a mask ratio of 0.85."""
    masked = num_masked(0.85, config.num_tokens)
    tokens = config.num_tokens + config.condition_tokens
    prefix = config.text_length if config.text_dim is not None else 1
    half, flow = config.depth // 2, config.flow_dim or config.dim
    return Kept(
        stacks=(
            (config.condition_depth, config.condition_tokens + prefix),
            (half, tokens - masked),
            (half, tokens),
        ),
        block=BLOCK_NUMBERS,
        outside=float(HEAD_NUMBERS * flow * config.flow_depth * masked * config.noise_samples_per_token),
    )


COSTS = Costs(
    parameters=parameters,
    embedding_parameters=embedding_parameters,
    loss_operations=loss_operations,
    training_operations=training_operations,
    kept=kept,
    generation_operations=generation_operations,
)
