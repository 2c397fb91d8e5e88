"""Count the parameters and operations of a model, from its configuration alone.

  lina count size=width1024 model.attention.gate=none

The table has a row for each component. A multiply-add counts as one operation (MAC); a FLOP is half of one.
"""

from pydantic.dataclasses import dataclass

from lina_lab.config import CHECKS, LinaConfig, from_dict
from lina_lab.config.grammar import Command
from lina_lab.config.presets import SIZES
from lina_lab.model import count


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class CountConfig:
    """Fields of `lina count`."""

    size: str = "width768"
    """Preset of the model's size."""
    model: dict[str, object] | None = None
    """Fields of the model that differ from the preset, each as model.FIELD=VALUE."""


def table(config: LinaConfig) -> str:
    """Parameters and operations of a model, a line a component."""
    columns = [("parameters", "M", count.parameters(config), 1e6)]
    operations = {"loss": count.loss_operations(config), "training step": count.training_operations(config)}
    if config.kind.generates:
        operations["generation"] = count.generation_operations(config, steps=min(64, config.num_tokens))
    for name, counts in operations.items():
        columns += [(name, "GMAC", counts, 1e9), ("", "GFLOP", counts, 1e9 / count.FLOPS_PER_MULTIPLY_ADD)]
    rows = [["", *(name for name, *_ in columns)], ["", *(unit for _, unit, *_ in columns)]]
    for part in (*count.Counts.__dataclass_fields__, "total"):
        rows.append([part, *(f"{getattr(counts, part) / unit:.3f}" for *_, counts, unit in columns)])
    tokens = config.condition_tokens + config.num_tokens
    module = count.attention_operations(config, config.decoder_blocks[0], tokens) / 1e9
    lines = [f"{first:10}" + "".join(f"{value:>15}" for value in others) for first, *others in rows]
    lines.append(f"One attention of the decoder, {tokens:,} tokens: {module:.2f} GMAC.")
    generation = " Generation: up to 64 steps, no guidance." if config.kind.generates else ""
    lines.append(f"For one image. GMAC: 1e9 multiply-adds.{generation}")
    return "\n".join(lines)


def run(config: CountConfig) -> int:
    """Print the table; returns 0.

    Raises:
        ValueError: an unknown preset, or fields that make no model.
    """
    if config.size not in SIZES:
        raise ValueError(f"size={config.size} is not a preset; they are {', '.join(SIZES)}")
    print(table(from_dict(LinaConfig, {**SIZES[config.size], **(config.model or {})}, within="model")))
    return 0


COMMAND = Command(config=CountConfig, run=run, doc=__doc__, errors=(ValueError,))
