"""Weights in the layout of the authors' files, to and from it.

Our names become theirs by a list of renamings, and by the entries of gates and convolutions (`lina_lab.variants`). Some
tensors have another shape there: gates have more axes, patch embeddings are convolutions, and with subtraction the
query projection is a tensor of its own.
"""

import re
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from lina_lab.config.attention import PARTS
from lina_lab.model.attention import Attention
from lina_lab.model.lina import LINA
from lina_lab.variants import NORMALIZATIONS, OfficialWeight

RENAMINGS = (
    (r"^class_embedding\.(table\.)?", "label_embed."),
    (r"^text_embedding\.table$", "text_embed.weight"),
    (r"^text_embedding\.", "text_embed."),
    (r"^condition_encoder\.time_zero\.mlp\.", "video_pos_embed.time_proj."),
    (r"^condition_encoder\.time_zero\.", "video_pos_embed."),
    (r"^condition_encoder\.patch_embed\.", "video_encoder.patch_embed.proj."),
    (r"^condition_encoder\.", "video_encoder."),
    (r"^backbone\.embed\.", "image_encoder.patch_embed.proj."),
    (r"^backbone\.", "image_encoder."),
    (r"^flow_head\.embed\.", "image_decoder.patch_embed.proj."),
    (r"^flow_head\.time_mlp\.", "image_decoder.time_cond_embed.timestep_proj."),
    (r"^flow_head\.z_mlp\.", "image_decoder.time_cond_embed.condition_proj."),
    (r"^flow_head\.blocks\.(\d+)\.modulation\.", r"image_decoder.blocks.\1.norm1."),
    (r"^flow_head\.blocks\.(\d+)\.mlp\.", r"image_decoder.blocks.\1.proj."),
    (r"^flow_head\.modulation\.", "image_decoder.norm."),
    (r"^flow_head\.", "image_decoder."),
)
RESHAPED = {
    weight.ours: weight
    for weight in (
        OfficialWeight("condition_encoder.start_token", "mask_embed.bos_token", "1 dim", "dim"),
        OfficialWeight("backbone.mask_token", "mask_embed.mask_token", "1 dim", "dim"),
        OfficialWeight("backbone.embed.weight", "image_encoder.patch_embed.proj.weight", "d c p q", "d (p q c)"),
        OfficialWeight("flow_head.embed.weight", "image_decoder.patch_embed.proj.weight", "d c 1 1", "d c"),
    )
}
"""Tensors of other parts than gates and convolutions that have another shape there."""
FIELDS = {"core": "kind", "gate": "gate", "conv": "conv", "qk_norm": "qk_norm", "head_norm": "head_norm"}
"""Part of an attention -> the configuration's field."""


def load_official(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Put weights in the authors' layout into an `Attention` or a `LINA`.

    Raises:
        ValueError: names every tensor that is missing, left over or of the wrong shape, or the variant that the
            authors do not have; `module` is left as it was.
    """
    _refuse_foreign(module)
    theirs = _stack_queries(dict(state_dict))
    ours: dict[str, Tensor] = {}
    problems = []
    for name, own in module.state_dict().items():
        part = _part_weight(module, name)
        official = _official_name(module, name, part)
        value = theirs.pop(official, None)
        if value is None:
            problems.append(f"{official} is missing")
            continue
        reshaped = part is not None and part.our_axes is not None and part.matches(tuple(value.shape))
        fitted = rearrange(value, f"{part.axes} -> {part.our_axes}") if part is not None and reshaped else value
        if fitted.shape != own.shape:
            problems.append(f"{official} has shape {list(value.shape)}, which does not make {list(own.shape)}")
        ours[name] = fitted
    problems += [f"{name} is left over" for name in sorted(theirs)]
    if problems:
        raise ValueError(f"these weights do not fit this {type(module).__name__}: " + "; ".join(problems))
    module.load_state_dict(ours)


def save_official(module: nn.Module) -> dict[str, Tensor]:
    """The weights of an `Attention` or a `LINA` in the authors' layout.

    Raises:
        ValueError: the authors do not have a variant of the module.
    """
    _refuse_foreign(module)
    patch = module.config.patch_size if isinstance(module, LINA) else 1
    theirs = {}
    for name, value in module.state_dict().items():
        part = _part_weight(module, name)
        official = _official_name(module, name, part)
        if re.search(r"(^|\.)qkv\.", official) and _queries_apart(module, name):
            query, key_value = value.tensor_split([len(value) // 3])
            theirs[official.replace("qkv.", "q.")] = query
            theirs[official.replace("qkv.", "kv.")] = key_value
        elif part is not None and part.our_axes is not None:
            sides = {"p": patch, "q": patch} if name == "backbone.embed.weight" else {}
            theirs[official] = rearrange(value, f"{part.our_axes} -> {part.axes}", **sides)
        else:
            theirs[official] = value
    return theirs


def _refuse_foreign(module: nn.Module) -> None:
    """Refuse a model whose weights would mean something else in the authors' layout.

    Raises:
        ValueError: one sentence.
    """
    if isinstance(module, Attention):
        return
    if not isinstance(module, LINA):
        raise ValueError(
            f"a {type(module).__name__} has no layout of the authors: they have model.task=generation alone"
        )
    if module.config.norm_placement != "after":
        raise ValueError("model.norm_placement=before: the authors have norms after the branches alone")


def _part_weight(module: nn.Module, name: str) -> OfficialWeight | None:
    """How the authors hold a tensor of a gate or a convolution, or one in `RESHAPED`; None: it is another one.

    Raises:
        ValueError: the authors do not have the variant.
    """
    if name in RESHAPED:
        return RESHAPED[name]
    match = (
        re.match(rf"((?:.*?\.)??)({'|'.join(FIELDS)})\.(.+)$", name) if isinstance(module, LINA | Attention) else None
    )
    owner = None if match is None else module.get_submodule(match[1].rstrip("."))
    if match is None or not isinstance(owner, Attention):
        return None
    field = FIELDS[match[2]]
    entry = PARTS[field][getattr(owner.config, field)]
    found = next((weight for weight in entry.official or () if weight.ours == match[3]), None)
    if found is None:
        raise ValueError(f"{entry.field}={entry.name}: its {match[3]} has no name in the authors' layout")
    return found


def _official_name(module: nn.Module, name: str, part: OfficialWeight | None) -> str:
    if part is not None and name == part.ours:
        return part.official
    if part is not None:
        name = re.sub(r"(^|\.)(?:gate|conv)\." + re.escape(part.ours) + "$", rf"\g<1>{part.official}", name)
    for pattern, replacement in RENAMINGS:
        name = re.sub(pattern, replacement, name)
    # Encoder and decoder are one list of blocks there.
    offset = module.config.depth // 2 if isinstance(module, LINA) else 0
    name = name.replace("image_encoder.encoder.", "image_encoder.blocks.")
    return re.sub(
        r"^image_encoder\.decoder\.(\d+)", lambda match: f"image_encoder.blocks.{int(match[1]) + offset}", name
    )


def _queries_apart(module: nn.Module, parameter: str) -> bool:
    owner = module.get_submodule(parameter.rpartition("qkv.")[0].rstrip("."))
    assert isinstance(owner, Attention)
    return NORMALIZATIONS[owner.config.normalization].official_queries_apart


def _stack_queries(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join each `q.*` with its `kv.*` to `qkv.*`; one without the other is left to be reported."""
    for name in [name for name in weights if re.search(r"(^|\.)q\.(weight|bias)$", name)]:
        partner, joined = (re.sub(r"(^|\.)q\.", rf"\g<1>{stem}.", name) for stem in ("kv", "qkv"))
        if partner in weights and joined not in weights:
            weights[joined] = torch.cat([weights.pop(name), weights.pop(partner)])
    return weights
