"""Parameters and operations of a LINA by component, from its configuration alone (`lina count`).

A multiply-add counts as one operation, as in the published figures; `FLOPS_PER_MULTIPLY_ADD` converts it to FLOPs.
Counted are linear layers, matrix products and convolutions. Softmax, norms, activations, gates' products and biases
count as nothing. What a variant costs is in its entry (`lina_lab.variants`). `6 N D` does not hold for this family: the
encoder sees visible tokens only, the flow head runs several times for each masked token, and a gate has parameters but
hardly any operations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from lina_lab.config import AttentionConfig, LinaConfig, TrialConfig
from lina_lab.model.schedule import mean_mask_ratio, num_masked, step_schedule
from lina_lab.variants import POSITIONS, linear

FLOPS_PER_MULTIPLY_ADD = 2
BACKWARD = 2
"""Operations of a backward pass for each of the forward pass: one product for the input, one for the weight."""
SINUSOID, MLP_RATIO, TEXT_ROWS = 256, 4, 512


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A number for each component."""

    condition: int
    """Class or text embedding and condition encoder."""
    encoder: int
    """Patch embedding and masked encoder."""
    decoder: int
    """Masked decoder."""
    head: int
    """Flow head."""

    @property
    def total(self) -> int:
        """Sum over the components."""
        return self.condition + self.encoder + self.decoder + self.head


def attention_parameters(config: LinaConfig, attention: AttentionConfig) -> int:
    """Parameters of one attention: its two projections, and what the entries of its parts say."""
    dim, geometry = config.dim, config.geometry(attention)
    parts = sum(variant.count_parameters(geometry) for variant in attention.variants)
    return linear(dim, 3 * dim) + linear(dim, dim) + parts


def parameters(config: LinaConfig) -> Counts:
    """Parameters by component, the frozen ones included."""
    dim, flow = config.dim, config.flow_dim or config.dim
    blocks = [
        sum(attention_parameters(config, attention) + _mlp(dim) + 2 * _norm(dim) for attention in stack)
        for stack in (config.condition_blocks, config.encoder_blocks, config.decoder_blocks)
    ]
    prefix = 0
    if config.num_classes is not None:
        prefix = (config.num_classes + 1) * dim + _norm(dim)
    if config.text_dim is not None:
        prefix = TEXT_ROWS * config.text_dim + linear(config.text_dim, dim) + _norm(dim)
    position = POSITIONS[config.position]
    time_zero = linear(SINUSOID, dim) + linear(dim, dim) + _norm(dim) if position.time_zero else 0
    positions = [position.count_parameters(g) for g in (config.condition_geometry, config.image_geometry)]
    patches = linear(4 * config.token_dim, dim)
    flow_block = linear(flow, 3 * flow) + 2 * linear(flow, flow) + _norm(flow)
    return Counts(
        condition=prefix + dim + time_zero + positions[0] + patches + blocks[0] + _norm(dim),
        encoder=linear(config.token_dim, dim) + dim + positions[1] + blocks[1],
        decoder=blocks[2] + _norm(dim),
        head=linear(config.token_dim, flow)
        + linear(SINUSOID, flow)
        + linear(dim, flow)
        + 2 * linear(flow, flow)
        + config.flow_depth * flow_block
        + linear(flow, 2 * flow)
        + linear(flow, config.token_dim),
    )


def embedding_parameters(config: LinaConfig) -> int:
    """Parameters that are looked up, not multiplied with: the table of classes or of absent text, start and mask token.

    They grow with the data's vocabulary, so scaling exponents are reported with and without them (arXiv 2406.12907).
    """
    classes = 0 if config.num_classes is None else (config.num_classes + 1) * config.dim
    return classes + (config.text_dim or 0) * TEXT_ROWS + 2 * config.dim


def attention_operations(config: LinaConfig, attention: AttentionConfig, tokens: int) -> int:
    """Multiply-adds of one attention over `tokens` tokens of one sample, forward."""
    geometry = config.geometry(attention)
    parts = sum(variant.count_multiply_adds(geometry, tokens) for variant in attention.variants)
    return 4 * tokens * config.dim**2 + parts


def _stack_operations(config: LinaConfig, stack: Sequence[AttentionConfig], tokens: int) -> int:
    mlp = 2 * MLP_RATIO * tokens * config.dim**2
    return sum(attention_operations(config, attention, tokens) + mlp for attention in stack)


def _condition_operations(config: LinaConfig) -> int:
    dim, prefix, embedding = config.dim, 0, 0
    if config.num_classes is not None:
        prefix = 1
    if config.text_dim is not None:
        prefix, embedding = config.text_length, config.text_length * config.text_dim * dim
    positions = POSITIONS[config.position].count_multiply_adds(config.condition_geometry, config.condition_tokens)
    return embedding + positions + _stack_operations(config, config.condition_blocks, prefix + config.condition_tokens)


def _head_operations(config: LinaConfig) -> tuple[int, int, int]:
    """Multiply-adds of the flow head: for each z, for each timestep, and for each noised token."""
    flow = config.flow_dim or config.dim
    for_z, for_level = config.dim * flow + flow**2, SINUSOID * flow + flow**2
    return for_z, for_level, 2 * config.token_dim * flow + config.flow_depth * 5 * flow**2 + 2 * flow**2


def _encode_operations(config: LinaConfig, visible: int) -> tuple[int, int]:
    """Multiply-adds of encoder and decoder with `visible` tokens known."""
    encoder = visible * config.token_dim * config.dim
    encoder += POSITIONS[config.position].count_multiply_adds(config.image_geometry, config.num_tokens)
    encoder += _stack_operations(config, config.encoder_blocks, config.condition_tokens + visible)
    tokens = config.condition_tokens + config.num_tokens
    return encoder, _stack_operations(config, config.decoder_blocks, tokens)


def _masked(config: LinaConfig, mask_ratio: float | None) -> int:
    """Masked tokens at a ratio; None: at the mean of the training distribution."""
    return num_masked(mean_mask_ratio() if mask_ratio is None else mask_ratio, config.num_tokens)


def loss_operations(config: LinaConfig, mask_ratio: float | None = None) -> Counts:
    """Multiply-adds of the loss of one image, forward.

    Args:
        config: the model.
        mask_ratio: share of the tokens that is masked; None: the mean of the training distribution.
    """
    masked = _masked(config, mask_ratio)
    encoder, decoder = _encode_operations(config, config.num_tokens - masked)
    for_z, for_level, for_token = _head_operations(config)
    head = masked * (for_z + config.noise_samples_per_token * (for_level + for_token))
    return Counts(condition=_condition_operations(config), encoder=encoder, decoder=decoder, head=head)


def training_operations(config: LinaConfig, mask_ratio: float | None = None) -> Counts:
    """Multiply-adds of a training step for one image, forward and backward.

    Inputs have no gradient: latents, noise, timesteps and texts. The constant vector of the condition grid is left out,
    since it is computed once for a batch.

    Args:
        config: the model.
        mask_ratio: share of the tokens that is masked; None: the mean of the training distribution.
    """
    forward, masked = loss_operations(config, mask_ratio), _masked(config, mask_ratio)
    flow, text = config.flow_dim or config.dim, (config.text_dim or 0) * config.text_length
    outside = Counts(
        condition=text * config.dim,
        encoder=(config.num_tokens - masked) * config.token_dim * config.dim,
        decoder=0,
        head=masked * config.noise_samples_per_token * (config.token_dim + SINUSOID) * flow,
    )
    return Counts(**{name: (1 + BACKWARD) * value - vars(outside)[name] for name, value in vars(forward).items()})


@lru_cache(maxsize=4096)
def flops_per_image(model: LinaConfig, teacher: LinaConfig | None = None) -> int:
    """FLOPs of training on one image, two for a multiply-add.

    Args:
        model: what is trained.
        teacher: the frozen model that it is distilled from, whose forward pass counts; None: there is none.
    """
    operations = training_operations(model).total
    if teacher is not None:
        # It is shown the student's noised tokens.
        operations += loss_operations(replace(teacher, noise_samples_per_token=model.noise_samples_per_token)).total
    return FLOPS_PER_MULTIPLY_ADD * operations


def training_flops(trial: TrialConfig, source: TrialConfig | None = None) -> float:
    """FLOPs of a trial's training, without that of what it starts from.

    Args:
        trial: the trial.
        source: the trial that it starts from; None: it is not known. A teacher then counts as if it were like the
            student, and with start.state=training the source's images count as the trial's own.
    """
    teacher = None if not trial.start.distills else trial.model if source is None else source.model
    before = source.images_seen if source is not None and trial.start.state == "training" else 0
    return float(flops_per_image(trial.model, teacher)) * max(trial.images_seen - before, 0)


def flops_with_sources(trial: TrialConfig, trials: Mapping[str, TrialConfig]) -> float | None:
    """FLOPs of a trial's training and of that of all that it started from; None: a source is not among the trials.

    Args:
        trial: the trial.
        trials: config hash -> trial, for the cells of its study.
    """
    total = 0.0
    while trial.start.given:
        source = trials.get(trial.start.cell or "")
        if source is None:
            return None
        total += training_flops(trial, source)
        trial = source
    return total + training_flops(trial)


def generation_operations(config: LinaConfig, *, steps: int = 64, flow_steps: int = 25, guided: bool = False) -> Counts:
    """Multiply-adds of one generated image.

    Args:
        config: the model.
        steps: autoregressive steps K.
        flow_steps: Euler steps of the flow's ODE in each autoregressive step.
        guided: whether there is an unconditional pass too, for classifier-free guidance.
    """
    passes = 2 if guided else 1
    known = [0, *step_schedule(config.num_tokens, steps)]
    encodings = [_encode_operations(config, visible) for visible in known[:-1]]
    for_z, for_level, for_token = _head_operations(config)
    tokens = config.num_tokens * (for_z + flow_steps * for_token)
    levels = (len(known) - 1) * flow_steps * for_level
    return Counts(
        condition=passes * _condition_operations(config),
        encoder=passes * sum(encoder for encoder, _ in encodings),
        decoder=passes * sum(decoder for _, decoder in encodings),
        head=passes * tokens + levels,
    )


def _norm(dim: int) -> int:
    return 2 * dim


def _mlp(dim: int) -> int:
    return linear(dim, MLP_RATIO * dim) + linear(MLP_RATIO * dim, dim)
