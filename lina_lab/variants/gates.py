"""Gates: learned weights on tokens, or on the output."""

from collections.abc import Callable

from lina_lab.util.registry import OpenRegistry
from lina_lab.variants.entry import GROUP, Gate, Geometry, OfficialWeight, linear, nothing

GATES: OpenRegistry[Gate] = OpenRegistry("gate", GROUP, Gate, unused="none")


def _by_position(name: str, heads: str = "heads") -> OfficialWeight:
    return OfficialWeight(name, name, f"1 {heads} tokens 1", f"{heads} tokens 1")


GATES.register(
    Gate(
        name="none",
        documentation="no gate",
        module="lina_lab.model.gates:no_gate",
        needs=None,
        parameters=nothing,
        multiply_adds=nothing,
        official=(),
    )
)


def _position_parameters(weights: int, shared: bool) -> Callable[[Geometry], int]:
    return lambda g: weights * (1 if shared else g.heads) * g.tokens


for name, documentation, module, weights, heads in (
    ("kv", "a weight for each head and position, on keys and on values", "PositionGate", ("key", "value"), "heads"),
    ("kv_shared", "as kv, shared by all heads", "SHARED_POSITION_GATE", ("key", "value"), "1"),
    ("key", "as kv, on keys alone", "KEY_POSITION_GATE", ("key",), "heads"),
    ("value", "as kv, on values alone", "VALUE_POSITION_GATE", ("value",), "heads"),
):
    names = tuple(f"{weight}_scale" for weight in weights)
    GATES.register(
        Gate(
            name=name,
            documentation=documentation,
            module=f"lina_lab.model.gates:{module}",
            needs_grid=True,
            by_position=names,
            parameters=_position_parameters(len(names), shared=heads == "1"),
            multiply_adds=nothing,
            official=tuple(_by_position(weight, heads) for weight in names),
        )
    )
DECOUPLED = ("key_scale_gamma", "key_scale_tau", "value_scale")
GATES.register(
    Gate(
        name="kv_decoupled",
        documentation="as kv, with other weights on the keys of the normalizer",
        module="lina_lab.model.gates:DecoupledGate",
        needs_grid=True,
        by_position=DECOUPLED,
        parameters=lambda g: len(DECOUPLED) * g.heads * g.tokens,
        multiply_adds=nothing,
        official=tuple(_by_position(weight) for weight in DECOUPLED),
    )
)
GATES.register(
    Gate(
        name="kv_data",
        documentation="a weight for each head and token on keys and on values, from a linear layer of the token",
        module="lina_lab.model.gates:DataGate",
        parameters=lambda g: 2 * linear(g.dim, g.heads),
        multiply_adds=lambda g, tokens: 2 * tokens * g.dim * g.heads,
        official=(
            OfficialWeight("key_gate.weight", "key_gate.weight", "heads dim"),
            OfficialWeight("key_gate.bias", "key_gate.bias", "heads"),
            OfficialWeight("value_gate.weight", "value_gate.weight", "heads dim"),
            OfficialWeight("value_gate.bias", "value_gate.bias", "heads"),
        ),
    )
)
MEMORY_GROUPS = 4


def _memory_requires(g: Geometry) -> str | None:
    return f"needs a multiple of {MEMORY_GROUPS} tokens, not {g.tokens}" if g.tokens % MEMORY_GROUPS else None


GATES.register(
    Gate(
        name="memory",
        documentation=f"weights of {MEMORY_GROUPS} contiguous groups of tokens, for each head",
        module="lina_lab.model.gates:MemoryGate",
        needs_grid=True,
        requires=_memory_requires,
        parameters=lambda g: MEMORY_GROUPS * g.heads,
        multiply_adds=nothing,
        official=(OfficialWeight("gate_logits", "gate_logits", "1 heads groups 1 1", "heads groups"),),
    )
)
GATES.register(
    Gate(
        name="output",
        documentation="a sigmoid gate on the normalized output, from a linear layer of the token; for every core",
        module="lina_lab.model.gates:OutputGate",
        needs=None,
        parameters=lambda g: linear(g.dim, g.dim) + g.dim,
        multiply_adds=lambda g, tokens: tokens * g.dim**2,
        official=(
            OfficialWeight("output_gate.weight", "output_gate.weight", "dim dim"),
            OfficialWeight("output_gate.bias", "output_gate.bias", "dim"),
            OfficialWeight("rms_norm.weight", "rms_norm.weight", "dim"),
        ),
    )
)
