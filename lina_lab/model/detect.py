"""Which model the weights of the authors' layout belong to.

Most of a configuration follows from names and shapes; those of the variants are in their entries (`lina_lab.variants`).
What does not follow: the core of attentions that store `qkv` (division and softmax look alike), the feature map, the
latent's size where there is no gate by position, the number of heads at an unknown width, and the length of a text. For
these there are assumptions, each of which the caller can replace.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor

from lina_lab.config import LinaConfig, from_dict
from lina_lab.config.presets import SIZES
from lina_lab.variants import CONVOLUTIONS, GATES, NORMALIZATIONS, POSITIONS, Variant

KNOWN_HEADS = {size["dim"]: size["num_heads"] for name, size in SIZES.items() if not name.startswith("cpu")}
UNGATED_GRID = 16
Shapes = Mapping[str, tuple[int, ...]]
"""Names of tensors -> their shapes."""


@dataclass(frozen=True)
class Found:
    """A configuration, and what in it is not in the weights."""

    config: LinaConfig
    assumptions: tuple[str, ...]
    """One sentence for each field that does not follow from the weights."""


def detect(
    weights: Mapping[str, Tensor], known: Mapping[str, Any] | None = None, like: LinaConfig | None = None
) -> Found:
    """The configuration of a whole model's weights in the authors' layout.

    Args:
        weights: names to tensors; only their shapes are used.
        known: known fields of the configuration, which replace what would be found.
        like: a model that has what the weights do not show of heads, latents and texts; None: the published ones.

    Raises:
        ValueError: the weights are not those of such a model, or more fields must be known.
    """
    known = known or {}
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    needed = ("mask_embed.mask_token", "image_encoder.patch_embed.proj.weight", "image_decoder.patch_embed.proj.weight")
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise ValueError(f"these are not the weights of a LINA: they lack {', '.join(missing)}")
    dim, channels, patch, _ = shapes[needed[1]]
    time_zero = any(name.startswith("video_pos_embed.") for name in shapes)
    fields: dict[str, Any] = {
        "latent_channels": channels,
        "patch_size": patch,
        "dim": dim,
        "condition_depth": _blocks(shapes, "video_encoder"),
        "depth": _blocks(shapes, "image_encoder"),
        "flow_depth": _blocks(shapes, "image_decoder"),
        "flow_dim": None if shapes[needed[2]][0] == dim else shapes[needed[2]][0],
        "position": next(e.name for e in POSITIONS.values() if e.official is not None and e.time_zero == time_zero),
        "num_classes": None,
    }
    assumed: list[tuple[str, str]] = []
    if "label_embed.weight" in shapes:
        fields["num_classes"] = shapes["label_embed.weight"][0] - 1
    if "text_embed.proj.weight" in shapes:
        fields["text_dim"] = shapes["text_embed.proj.weight"][1]
        length = 256 if like is None or like.text_dim is None else like.text_length
        assumed.append(("text_length", f"text_length={length}: a text's length is not in the weights"))
        fields["text_length"] = length
    fields["num_heads"] = _heads(shapes, dim, known.get("num_heads"), like)
    fields["latent_size"] = _latent_size(shapes, dim, patch, assumed, like)
    fields |= _attentions(shapes, fields, assumed)
    for name, value in known.items():
        both = isinstance(value, Mapping) and isinstance(fields.get(name), Mapping)
        fields[name] = {**fields[name], **value} if both else value
    config = from_dict(LinaConfig, fields, within="model")
    return Found(config, tuple(sentence for field, sentence in assumed if field not in known))


def _blocks(shapes: Shapes, stack: str) -> int:
    numbers = {int(match[1]) for name in shapes if (match := re.match(rf"{stack}\.blocks\.(\d+)\.", name))}
    if numbers != set(range(len(numbers))) or not numbers:
        raise ValueError(f"the blocks of {stack} are not numbered from 0 without a gap")
    return len(numbers)


def _sizes(shapes: Shapes, dim: int, size: str) -> Iterator[int]:
    """The values of a size, such as the number of heads, that tensors of gates and convolutions show."""
    weights = [w for entries in (GATES, CONVOLUTIONS) for entry in entries.values() for w in entry.official or ()]
    for name, shape in shapes.items():
        part = name.rpartition(".attn.")[2]
        matching = [weight for weight in weights if weight.official == part and weight.matches(shape)]
        # A gate that all heads share has one weight where others have one for each head.
        if matching and not (size == "heads" and any("heads" not in weight.axes for weight in matching)):
            found = matching[0].sizes(shape, dim)
            if size in found:
                yield found[size]


def _heads(shapes: Shapes, dim: int, known: int | None, like: LinaConfig | None) -> int:
    if known is not None:
        return known
    found = set(_sizes(shapes, dim, "heads"))
    if len(found) > 1:
        raise ValueError(f"the attentions have different numbers of heads: {sorted(found)}")
    if found:
        return found.pop()
    if like is not None and like.dim == dim:
        return like.num_heads
    if dim not in KNOWN_HEADS:
        raise ValueError(f"the number of heads at width {dim} is not in the weights: give model.num_heads=N")
    return KNOWN_HEADS[dim]


def _latent_size(
    shapes: Shapes, dim: int, patch: int, assumed: list[tuple[str, str]], like: LinaConfig | None
) -> tuple[int, int]:
    """From the length of a gate by position: N image tokens on a square, and those of half the side, rounded up."""
    lengths = set(_sizes(shapes, dim, "tokens"))
    if len(lengths) > 1:
        raise ValueError(f"the gates are of different lengths: {sorted(lengths)}")
    if not lengths:
        published = (UNGATED_GRID * patch, UNGATED_GRID * patch)
        height, width = like.latent_size if like is not None and like.patch_size == patch else published
        assumed.append(("latent_size", f"latent_size=[{height},{width}]: no gate shows the grid"))
        return height, width
    tokens = lengths.pop()
    for side in range(1, isqrt(tokens) + 1):
        if side**2 + ((side + 1) // 2) ** 2 == tokens:
            return side * patch, side * patch
    raise ValueError(f"gates of {tokens} tokens belong to no square: give model.latent_size=[H,W]")


def _attentions(shapes: Shapes, fields: Mapping[str, Any], assumed: list[tuple[str, str]]) -> dict[str, Any]:
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
        sentence = "kind=linear, normalization=division where qkv is one tensor: softmax and mediator look the same"
        assumed.append(("attention", sentence))
    assumed.append(("attention", "feature_map=relu, and qk_norm=none: qk_norm=power has no weights"))
    placements: dict[str, Any] = {"attention": _pattern(decoder)}
    for name, attentions in (("encoder_attention", encoder), ("condition_attention", condition)):
        cores = [decoder[block % half]["normalization"] for block in range(len(attentions))]
        if attentions != [{"normalization": core, "conv": "none", "gate": "none"} for core in cores]:
            placements[name] = _pattern(attentions)
    return placements


def _attention(shapes: Shapes, prefix: str, dim: int) -> dict[str, Any]:
    names = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    apart = "kv.weight" in names
    normalization = next(
        entry.name
        for entry in NORMALIZATIONS.values()
        if entry.official is not None and entry.official_queries_apart == apart
    )
    gate, conv = (_part(entries, names, prefix) for entries in (GATES, CONVOLUTIONS))
    found: dict[str, Any] = {"normalization": normalization, "gate": gate.name, "conv": conv.name}
    for size in _sizes(names, dim, "kernel"):
        found["conv_kernel"] = size
    return found


def _part(entries: Mapping[str, Variant], names: Shapes, prefix: str) -> Variant:
    """The gate, or the convolution, with just these tensors."""
    official = {
        entry.name: {w.official: w for w in entry.official} for entry in entries.values() if entry.official is not None
    }
    own = set(names) & {name for weights in official.values() for name in weights}
    found = [
        entries[entry]
        for entry, weights in official.items()
        if set(weights) == own and all(weight.matches(names[name]) for name, weight in weights.items())
    ]
    if not found:
        field = next(iter(entries.values())).field
        raise ValueError(f"no {field} has just {', '.join(sorted(own))}, as {prefix.rstrip('.')} does")
    # A tensor with a 1 for all heads fits an entry for each head too: the one that says more is meant.
    return max(found, key=lambda entry: sum(weight.axes.split().count("1") for weight in entry.official or ()))


def _pattern(attentions: list[dict[str, Any]]) -> dict[str, Any] | list[dict[str, Any]]:
    """One attention where all blocks have the same, else the shortest pattern that the blocks repeat."""
    count = len(attentions)
    pattern = next(attentions[:n] for n in range(1, count + 1) if attentions[:n] * (count // n) == attentions)
    return pattern[0] if len(pattern) == 1 else pattern
