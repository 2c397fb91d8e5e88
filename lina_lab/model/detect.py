"""Which model the weights of the authors' layout belong to (`lina.md` section 5).

Most of a configuration is in the names and shapes. What is not: the core of attentions that store `qkv` (division and
softmax look alike), the feature map, the latent's size where there is no gate by position, the number of heads at an
unknown width, and the length of a text. For these there are assumptions, each of which can be stated otherwise.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor

from lina_lab.config import LinaConfig, from_dict
from lina_lab.config.presets import SIZES
from lina_lab.model.gates import BY_POSITION

GATES = {
    frozenset({"key_scale"}): "key",
    frozenset({"value_scale"}): "value",
    frozenset({"key_scale", "value_scale"}): "kv",
    frozenset({"key_scale_gamma", "key_scale_tau", "value_scale"}): "kv_decoupled",
    frozenset({"key_gate", "value_gate"}): "kv_data",
    frozenset({"gate_logits"}): "memory",
    frozenset({"output_gate", "rms_norm"}): "output",
    frozenset[str](): "none",
}
"""Names of an attention's gate -> the gate."""
KNOWN_HEADS = {size["dim"]: size["num_heads"] for name, size in SIZES.items() if not name.startswith("cpu")}
UNGATED_GRID = 16


@dataclass(frozen=True)
class Found:
    """A configuration, and what in it is not in the weights."""

    config: LinaConfig
    assumptions: tuple[str, ...]
    """Sentences."""


def detect(weights: Mapping[str, Tensor], given: Mapping[str, Any] | None = None) -> Found:
    """The configuration of a whole model's weights in the authors' layout.

    Args:
        weights: names to tensors; only their shapes are looked at.
        given: fields of the configuration that are known; they are taken in place of what would be found.

    Raises:
        ValueError: the weights are not those of such a model, or more must be given.
    """
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    needed = ("mask_embed.mask_token", "image_encoder.patch_embed.proj.weight", "image_decoder.patch_embed.proj.weight")
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise ValueError(f"these are not the weights of a LINA: {', '.join(missing)} is not among them")
    dim, channels, patch, _ = shapes[needed[1]]
    fields: dict[str, Any] = {
        "latent_channels": channels,
        "patch_size": patch,
        "dim": dim,
        "condition_depth": _blocks(shapes, "video_encoder"),
        "depth": _blocks(shapes, "image_encoder"),
        "flow_depth": _blocks(shapes, "image_decoder"),
        "flow_dim": None if shapes[needed[2]][0] == dim else shapes[needed[2]][0],
        "position": "sincos" if any(name.startswith("video_pos_embed.") for name in shapes) else "rotary",
        "num_classes": None,
    }
    assumed: list[tuple[str, str]] = []
    if "label_embed.weight" in shapes:
        fields["num_classes"] = shapes["label_embed.weight"][0] - 1
    if "text_embed.proj.weight" in shapes:
        fields["text_dim"] = shapes["text_embed.proj.weight"][1]
        assumed.append(("text_length", "text_length=256: a text's length is not in the weights"))
    fields["num_heads"] = _heads(shapes, dim, (given or {}).get("num_heads"))
    fields["latent_size"] = _latent_size(shapes, patch, assumed)
    fields |= _attentions(shapes, fields, assumed)
    for name, value in (given or {}).items():
        both = isinstance(value, Mapping) and isinstance(fields.get(name), Mapping)
        fields[name] = {**fields[name], **value} if both else value
    config = from_dict(LinaConfig, fields, within="model")
    return Found(config, tuple(sentence for field, sentence in assumed if field not in (given or {})))


def _blocks(shapes: Mapping[str, Any], stack: str) -> int:
    numbers = {int(match[1]) for name in shapes if (match := re.match(rf"{stack}\.blocks\.(\d+)\.", name))}
    if numbers != set(range(len(numbers))) or not numbers:
        raise ValueError(f"the blocks of {stack} are not numbered from 0 without a gap")
    return len(numbers)


def _heads(shapes: Mapping[str, tuple[int, ...]], dim: int, given: int | None) -> int:
    found = set()
    for name, shape in shapes.items():
        part = name.rpartition(".attn.")[2]
        if part in (*BY_POSITION, "gate_logits") and shape[1] > 1:
            found.add(shape[1])
        if part in ("key_gate.weight", "value_gate.weight"):
            found.add(shape[0])
        if part == "residual.0.weight":
            found.add(dim // shape[1])
    if given is not None:
        return given
    if len(found) > 1:
        raise ValueError(f"the attentions have different numbers of heads: {sorted(found)}")
    if found:
        return found.pop()
    if dim not in KNOWN_HEADS:
        raise ValueError(f"the number of heads at width {dim} is not in the weights: give model.num_heads=N")
    return KNOWN_HEADS[dim]


def _latent_size(shapes: Mapping[str, tuple[int, ...]], patch: int, assumed: list[tuple[str, str]]) -> tuple[int, int]:
    """From the length of a gate by position: N image tokens on a square, and those of half the side, rounded up."""
    lengths = {shape[2] for name, shape in shapes.items() if name.rpartition(".attn.")[2] in BY_POSITION}
    if len(lengths) > 1:
        raise ValueError(f"the gates are of different lengths: {sorted(lengths)}")
    if not lengths:
        side = UNGATED_GRID
        assumed.append(("latent_size", f"latent_size=[{side * patch},{side * patch}]: no gate shows the grid"))
        return side * patch, side * patch
    tokens = lengths.pop()
    for side in range(1, isqrt(tokens) + 1):
        if side**2 + ((side + 1) // 2) ** 2 == tokens:
            return side * patch, side * patch
    raise ValueError(f"gates of {tokens} tokens belong to no square: give model.latent_size=[H,W]")


def _attentions(
    shapes: Mapping[str, tuple[int, ...]], fields: Mapping[str, Any], assumed: list[tuple[str, str]]
) -> dict[str, Any]:
    half = fields["depth"] // 2
    condition, encoder, decoder = (
        [_attention(shapes, f"{stack}.blocks.{block}.attn.", fields["dim"]) for block in blocks]
        for stack, blocks in (
            ("video_encoder", range(fields["condition_depth"])),
            ("image_encoder", range(half)),
            ("image_encoder", range(half, fields["depth"])),
        )
    )
    if any(attention["normalization"] == "division" for attention in (*condition, *encoder, *decoder)):
        sentence = "kind=linear, normalization=division where qkv is stored whole: softmax and mediator look the same"
        assumed.append(("attention", sentence))
    assumed.append(("attention", "feature_map=relu"))
    placements: dict[str, Any] = {"attention": _pattern(decoder)}
    pattern = placements["attention"] if isinstance(placements["attention"], list) else [placements["attention"]]
    for name, attentions in (("encoder_attention", encoder), ("condition_attention", condition)):
        cores = [pattern[block % len(pattern)]["normalization"] for block in range(len(attentions))]
        if attentions != [{"normalization": core, "conv": "none", "gate": "none"} for core in cores]:
            placements[name] = _pattern(attentions)
    return placements


def _attention(shapes: Mapping[str, tuple[int, ...]], prefix: str, dim: int) -> dict[str, Any]:
    names = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    known = {part for parts in GATES for part in parts}
    own = frozenset(name.split(".")[0] for name in names) & known
    if own not in GATES:
        raise ValueError(f"no gate has just {', '.join(sorted(own))}, as {prefix.rstrip('.')} does")
    gate, attention = GATES[own], {"normalization": "subtraction" if "kv.weight" in names else "division"}
    if gate == "kv" and names["key_scale"][1] == 1:
        gate = "kv_shared"
    if "dw_conv.weight" in names:
        return attention | {"gate": gate, "conv": "depthwise", "conv_kernel": names["dw_conv.weight"][-1]}
    if "residual.2.weight" in names:
        return attention | {"gate": gate, "conv": "dynamic", "conv_kernel": names["residual.2.weight"][0] // dim}
    return attention | {"gate": gate, "conv": "none"}


def _pattern(attentions: list[dict[str, Any]]) -> dict[str, Any] | list[dict[str, Any]]:
    """One for all blocks where they are equal, else the shortest pattern that they repeat."""
    for length in range(1, len(attentions) + 1):
        if len(attentions) % length == 0 and attentions == attentions[:length] * (len(attentions) // length):
            return attentions[0] if length == 1 else attentions[:length]
    raise AssertionError("the whole is a pattern of itself")
