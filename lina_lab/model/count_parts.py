"""What the counts of all tasks have in common: components, attentions and stacks of blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lina_lab.config import AttentionConfig, LinaConfig
from lina_lab.variants import linear

BACKWARD = 2
"""Operations of a backward pass for each of the forward pass: one product for the input, one for the weight."""
SINUSOID, MLP_RATIO = 256, 4
BLOCK_NUMBERS = 24
"""Numbers that a block of LINA keeps for its backward pass, a token and channel."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """A number for each component, named after those of LINA."""

    condition: int
    """Class or text embedding and condition encoder; of diffusion also the embedding of time."""
    encoder: int
    """Patch embedding and masked encoder; of other tasks the patch embedding."""
    decoder: int
    """Masked decoder; of other tasks all blocks."""
    head: int
    """Flow head; of other tasks what follows the blocks."""

    @property
    def total(self) -> int:
        """Sum over the components."""
        return self.condition + self.encoder + self.decoder + self.head


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a step keeps of one image for its backward pass."""

    stacks: tuple[tuple[int, int], ...]
    """(blocks, tokens) of each stack."""
    block: int
    """Numbers that a block keeps for each token and channel: about 10 in attention, the others in MLP, norms and
    modulations."""
    outside: float
    """Numbers that are kept outside the stacks."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """How the parameters and operations of a task's model are counted. Functions of a LinaConfig, see `count`."""

    parameters: Callable[[LinaConfig], Counts]
    embedding_parameters: Callable[[LinaConfig], int]
    loss_operations: Callable[[LinaConfig, float | None], Counts]
    training_operations: Callable[[LinaConfig, float | None], Counts]
    kept: Callable[[LinaConfig], Kept]
    """What a step keeps for its backward pass."""
    generation_operations: Callable[..., Counts] | None = None
    """None: the task generates no images."""


def attention_parameters(config: LinaConfig, attention: AttentionConfig) -> int:
    """Parameters of one attention: its two projections, and what the entries of its parts say."""
    dim, geometry = config.dim, config.geometry(attention)
    parts = sum(variant.count_parameters(geometry) for variant in attention.variants)
    return linear(dim, 3 * dim) + linear(dim, dim) + parts


def attention_operations(config: LinaConfig, attention: AttentionConfig, tokens: int) -> int:
    """Multiply-adds of one attention over `tokens` tokens of one sample, forward."""
    geometry = config.geometry(attention)
    parts = sum(variant.count_multiply_adds(geometry, tokens) for variant in attention.variants)
    return 4 * tokens * config.dim**2 + parts


def stack_operations(config: LinaConfig, stack: Sequence[AttentionConfig], tokens: int) -> int:
    """Multiply-adds of blocks over `tokens` tokens of one sample, forward."""
    mlp = 2 * MLP_RATIO * tokens * config.dim**2
    return sum(attention_operations(config, attention, tokens) + mlp for attention in stack)


def backward_too(forward: Counts, outside: Counts) -> Counts:
    """Multiply-adds forward and backward; `outside` are those of layers whose inputs need no gradient."""
    return Counts(**{name: (1 + BACKWARD) * value - vars(outside)[name] for name, value in vars(forward).items()})


def norm_parameters(dim: int) -> int:
    """Parameters of a LayerNorm."""
    return 2 * dim


def mlp_parameters(dim: int) -> int:
    """Parameters of a block's MLP."""
    return linear(dim, MLP_RATIO * dim) + linear(MLP_RATIO * dim, dim)
