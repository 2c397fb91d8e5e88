"""Gates: learned weights on tokens, or on the output."""

from lina_lab.util.registry import OpenRegistry
from lina_lab.variants.entry import FREE, GROUP, Gate, Geometry, OfficialWeight, linear, nothing, official_layer

GATES: OpenRegistry[Gate] = OpenRegistry("gate", GROUP, Gate, unused="none")
KEY, VALUE = "key_scale", "value_scale"
MEMORY_GROUPS = 4


def _by_position(name: str, documentation: str, module: str, *weights: str, heads: str = "heads") -> Gate:
    """A gate with a weight for each position, and each head unless `heads` is 1."""
    return Gate(
        name=name,
        documentation=documentation,
        module=f"lina_lab.model.gates:{module}",
        needs_grid=True,
        by_position=weights,
        parameters=lambda g: len(weights) * (1 if heads == "1" else g.heads) * g.tokens,
        multiply_adds=nothing,
        official=tuple(OfficialWeight(own, own, f"1 {heads} tokens 1", f"{heads} tokens 1") for own in weights),
    )


def _memory_requires(g: Geometry) -> str | None:
    return f"needs a multiple of {MEMORY_GROUPS} tokens, not {g.tokens}" if g.tokens % MEMORY_GROUPS else None


for entry in (
    Gate(name="none", documentation="no gate", module="lina_lab.model.gates:no_gate", needs=None, **FREE),
    _by_position("kv", "a weight for each head and position, on keys and on values", "PositionGate", KEY, VALUE),
    _by_position("kv_shared", "as kv, shared by all heads", "SHARED_POSITION_GATE", KEY, VALUE, heads="1"),
    _by_position("key", "as kv, on keys alone", "KEY_POSITION_GATE", KEY),
    _by_position("value", "as kv, on values alone", "VALUE_POSITION_GATE", VALUE),
    _by_position(
        "kv_decoupled",
        "as kv, with other weights on the keys of the normalizer",
        "DecoupledGate",
        *("key_scale_gamma", "key_scale_tau", VALUE),
    ),
    Gate(
        name="kv_data",
        documentation="a weight for each head and token on keys and on values, from a linear layer of the token",
        module="lina_lab.model.gates:DataGate",
        parameters=lambda g: 2 * linear(g.dim, g.heads),
        multiply_adds=lambda g, tokens: 2 * tokens * g.dim * g.heads,
        official=(*official_layer("key_gate", "heads dim"), *official_layer("value_gate", "heads dim")),
    ),
    Gate(
        name="beta",
        documentation="a sigmoid weight for each head and token on keys alone, from a linear layer of the token "
        "(as in SANA-Video 2)",
        module="lina_lab.model.gates:BetaGate",
        parameters=lambda g: linear(g.dim, g.heads),
        multiply_adds=lambda g, tokens: tokens * g.dim * g.heads,
    ),
    Gate(
        name="memory",
        documentation=f"weights of {MEMORY_GROUPS} contiguous groups of tokens, for each head",
        module="lina_lab.model.gates:MemoryGate",
        needs_grid=True,
        requires=_memory_requires,
        parameters=lambda g: MEMORY_GROUPS * g.heads,
        multiply_adds=nothing,
        official=(OfficialWeight("gate_logits", "gate_logits", "1 heads groups 1 1", "heads groups"),),
    ),
    Gate(
        name="output",
        documentation="a sigmoid gate on the normalized output, from a linear layer of the token; for every core",
        module="lina_lab.model.gates:OutputGate",
        needs=None,
        parameters=lambda g: linear(g.dim, g.dim) + g.dim,
        multiply_adds=lambda g, tokens: tokens * g.dim**2,
        official=(
            *official_layer("output_gate", "dim dim"),
            OfficialWeight("rms_norm.weight", "rms_norm.weight", "dim"),
        ),
    ),
):
    GATES.register(entry)
