"""Weights in the layout of the authors' files, in and out (`lina.md` section 5).

Our names become theirs by a list of renamings. Some tensors have another shape there: gates have more axes, patch
embeddings are convolutions, and subtraction's runs keep the query projection apart from the other two.
"""

import re
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from lina_lab.model.attention import Attention
from lina_lab.model.gates import BY_POSITION
from lina_lab.model.lina import LINA

RENAMINGS = (
    (r"gate\.(key|value|output|gate|rms)_", r"\1_"),
    (r"conv\.conv\.", "dw_conv."),
    (r"conv\.residual\.", "residual."),
    (r"^class_embedding\.table\.", "label_embed."),
    (r"^class_embedding\.", "label_embed."),
    (r"^text_embedding\.table$", "text_embed.weight"),
    (r"^text_embedding\.", "text_embed."),
    (r"^condition_encoder\.start_token$", "mask_embed.bos_token"),
    (r"^condition_encoder\.time_zero\.mlp\.", "video_pos_embed.time_proj."),
    (r"^condition_encoder\.time_zero\.", "video_pos_embed."),
    (r"^condition_encoder\.patch_embed\.", "video_encoder.patch_embed.proj."),
    (r"^condition_encoder\.", "video_encoder."),
    (r"^backbone\.mask_token$", "mask_embed.mask_token"),
    (r"^backbone\.embed\.", "image_encoder.patch_embed.proj."),
    (r"^backbone\.(encoder\.|decoder\.)", r"image_encoder.\1"),
    (r"^backbone\.", "image_encoder."),
    (r"^flow_head\.embed\.", "image_decoder.patch_embed.proj."),
    (r"^flow_head\.time_mlp\.", "image_decoder.time_cond_embed.timestep_proj."),
    (r"^flow_head\.z_mlp\.", "image_decoder.time_cond_embed.condition_proj."),
    (r"^flow_head\.blocks\.(\d+)\.modulation\.", r"image_decoder.blocks.\1.norm1."),
    (r"^flow_head\.blocks\.(\d+)\.mlp\.", r"image_decoder.blocks.\1.proj."),
    (r"^flow_head\.modulation\.", "image_decoder.norm."),
    (r"^flow_head\.", "image_decoder."),
)


def load_official(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Put weights in the authors' layout into an `Attention` or a `LINA`.

    Raises:
        ValueError: names every tensor that is missing, left over or of the wrong shape; `module` is left as it was.
    """
    theirs = _stack_queries(dict(state_dict))
    ours: dict[str, Tensor] = {}
    problems = []
    for name, own in module.state_dict().items():
        official = _official_name(module, name)
        value = theirs.pop(official, None)
        if value is None:
            problems.append(f"{official} is missing")
            continue
        fitted = _our_shape(name, value)
        if fitted.shape != own.shape:
            problems.append(f"{official} has shape {list(value.shape)}, which does not make {list(own.shape)}")
        ours[name] = fitted
    problems += [f"{name} is left over" for name in sorted(theirs)]
    if problems:
        raise ValueError(f"these weights do not fit this {type(module).__name__}: " + "; ".join(problems))
    module.load_state_dict(ours)


def save_official(module: nn.Module) -> dict[str, Tensor]:
    """The weights of an `Attention` or a `LINA` in the authors' layout."""
    patch = module.config.patch_size if isinstance(module, LINA) else 1
    theirs = {}
    for name, value in module.state_dict().items():
        official = _official_name(module, name)
        if re.search(r"(^|\.)qkv\.", official) and _attention_of(module, name).config.normalization == "subtraction":
            query, key_value = value.tensor_split([len(value) // 3])
            theirs[official.replace("qkv.", "q.")] = query
            theirs[official.replace("qkv.", "kv.")] = key_value
        else:
            theirs[official] = _their_shape(name, value, patch)
    return theirs


def _official_name(module: nn.Module, name: str) -> str:
    for pattern, replacement in RENAMINGS:
        name = re.sub(pattern, replacement, name)
    # Encoder and decoder are one list of blocks there.
    offset = module.config.depth // 2 if isinstance(module, LINA) else 0
    name = name.replace("image_encoder.encoder.", "image_encoder.blocks.")
    return re.sub(
        r"^image_encoder\.decoder\.(\d+)", lambda match: f"image_encoder.blocks.{int(match[1]) + offset}", name
    )


def _attention_of(module: nn.Module, parameter: str) -> Attention:
    owner = module.get_submodule(parameter.rpartition("qkv.")[0].rstrip("."))
    assert isinstance(owner, Attention)
    return owner


def _stack_queries(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join each `q.*` with its `kv.*` to `qkv.*`; one without the other is left to be reported."""
    for name in [name for name in weights if re.search(r"(^|\.)q\.(weight|bias)$", name)]:
        partner, joined = (re.sub(r"(^|\.)q\.", rf"\g<1>{stem}.", name) for stem in ("kv", "qkv"))
        if partner in weights and joined not in weights:
            weights[joined] = torch.cat([weights.pop(name), weights.pop(partner)])
    return weights


def _our_shape(name: str, value: Tensor) -> Tensor:
    if name.endswith(("start_token", "mask_token", *BY_POSITION)):
        return value.squeeze(0) if value.shape[0] == 1 else value
    if name.endswith("gate_logits"):
        return rearrange(value, "1 h g 1 1 -> h g") if value.ndim == 5 else value
    if name in ("backbone.embed.weight", "flow_head.embed.weight") and value.ndim == 4:
        return rearrange(value, "d c p q -> d (p q c)")
    return value


def _their_shape(name: str, value: Tensor, patch: int) -> Tensor:
    if name.endswith(("start_token", "mask_token", *BY_POSITION)):
        return value.unsqueeze(0)
    if name.endswith("gate_logits"):
        return rearrange(value, "h g -> 1 h g 1 1")
    if name == "backbone.embed.weight":
        return rearrange(value, "d (p q c) -> d c p q", p=patch, q=patch)
    if name == "flow_head.embed.weight":
        return rearrange(value, "d c -> d c 1 1")
    return value
