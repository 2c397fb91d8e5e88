"""Take the weights of one model into another one that has just been initialized.

Sin-cos and rotary positions extend by their formulas and are never taken. Gates by position are tied to the grid: they
are interpolated on it, or start again from 1, as the authors have them do when they go to a higher resolution.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lina_lab.config import LinaConfig
from lina_lab.config.start import StartConfig
from lina_lab.model.backbone import Positions
from lina_lab.model.making import make_model
from lina_lab.variants import GATES

Shape = tuple[int, ...]
ATTENTION = ".attn."
"""What the names of an attention's parameters have in them."""
PATCHES = (
    *("backbone.embed.*", "condition_encoder.patch_embed.*", "flow_head.embed.*", "flow_head.head.*"),
    *("embed.*", "out.*"),
)
MEANING = {
    "num_heads": ("*.attn.qkv.*", "*.attn.proj.*"),
    "latent_channels": PATCHES,
    "patch_size": PATCHES,
    "text_dim": ("text_embedding.*", "text.*"),
    "norm_placement": tuple(f"{stack}.*.norm[12].*" for stack in ("backbone", "condition_encoder.blocks", "blocks")),
}
"""Field of the model -> the parameters that mean something else where it differs, even if their shapes are the same.
Patterns of names, as in a shell."""
SIZES = (*MEANING, "task", "dim", "flow_dim", "num_classes", "depth", "condition_depth", "flow_depth")
"""Fields that a message about shapes names if they differ."""
SHOWN = 3
"""Names in a message; the others are counted."""


@dataclass(frozen=True)
class Inherited:
    """Names of parameters by what became of them; each of the model's is in one of the first three."""

    taken: tuple[str, ...]
    interpolated: tuple[str, ...]
    drawn: tuple[str, ...]
    """The model's, not taken: they keep the values of a fresh model."""
    left: tuple[str, ...]
    """The source's, not taken."""

    def __str__(self) -> str:
        parts = [f"{len(self.taken)} parameters taken"]
        if self.interpolated:
            parts.append(f"{len(self.interpolated)} interpolated")
        for what, names in (("drawn", self.drawn), ("left", self.left)):
            if names:
                parts.append(f"{len(names)} {what} ({_some(names)})")
        return ", ".join(parts)


def inherit(model: Any, weights: Mapping[str, Tensor], source: LinaConfig, start: StartConfig) -> Inherited:
    """Take weights into a model that has just been initialized; what is not taken keeps its drawn values.

    Args:
        model: changed in place.
        weights: the source's state dict.
        source: the source's configuration.
        start: which of the weights are taken, and how.

    Raises:
        ValueError: lists what does not fit; the model is left as it was.
    """
    own = model.state_dict()
    found = _sorted(model, {name: tuple(value.shape) for name, value in weights.items()}, source, start)
    grids = partial(_resized, source=source, target=model.config)
    with torch.no_grad():
        for name in found.taken:
            own[name].copy_(weights[name])
        for name in found.interpolated:
            own[name].copy_(grids(weights[name]))
    return found


def misfit(target: LinaConfig, source: LinaConfig, start: StartConfig) -> str | None:
    """Why the weights of `source` cannot be taken into a model of `target`, as a sentence; None: they can.

    No memory is needed for the two models.
    """
    with torch.device("meta"):
        models = [make_model(config) for config in (target, source)]
    try:
        _sorted(models[0], {name: tuple(v.shape) for name, v in models[1].state_dict().items()}, source, start)
    except ValueError as error:
        return str(error)
    return None


def _sorted(model: Any, shapes: Mapping[str, Shape], source: LinaConfig, start: StartConfig) -> Inherited:
    """What becomes of each parameter.

    Args:
        model: on any device.
        shapes: of the source's parameters.
        source: the source's configuration.
        start: which are taken.

    Raises:
        ValueError: something does not fit.
    """
    constants, own = _positions(model), model.state_dict()
    target = {name: tuple(value.shape) for name, value in own.items() if name not in constants}
    by_position, chosen = _by_position(source, model.config), _chosen(list(shapes), start)
    if start.gates == "drop" and (gates := [name for name in target if by_position(name)]):
        raise ValueError(f"start.gates=drop is for a model without gates by position, and this one has {_some(gates)}")
    moved = (source.grid, source.condition_grid) != (model.config.grid, model.config.condition_grid)
    differing = [field for field in SIZES if getattr(source, field) != getattr(model.config, field)]
    foreign = tuple(pattern for field in differing for pattern in MEANING.get(field, ()))
    taken, interpolated, left, unfit = list[str](), list[str](), list[str](), list[str]()
    for name, shape in shapes.items():
        if name in constants:
            continue
        if not chosen(name) or (by_position(name) and start.gates != "interpolate"):
            left.append(name)
        elif name not in target:
            unfit.append(f"{name}, which the model lacks")
            left.append(name)
        elif by_position(name) and moved and shape[0] == target[name][0]:
            interpolated.append(name)
        elif shape != target[name] or any(fnmatchcase(name, pattern) for pattern in foreign):
            unfit.append(f"{name} {list(shape)}, for {list(target[name])}")
            left.append(name)
        else:
            taken.append(name)
    if unfit and start.unfit == "refuse":
        raise ValueError(_refusal(unfit, differing, model.config, source))
    if not taken and not interpolated:
        raise ValueError("nothing of the source's weights is taken: see start.take, start.named and start.unfit")
    drawn = [name for name in target if name not in {*taken, *interpolated}]
    return Inherited(tuple(taken), tuple(interpolated), tuple(drawn), tuple(left))


def _chosen(names: Sequence[str], start: StartConfig) -> Callable[[str], bool]:
    """Whether a parameter is among those to take.

    Raises:
        ValueError: a pattern matches no parameter of the source.
    """
    for pattern in start.named:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"start.named: no parameter of the source matches {pattern}, such as {names[0]} would")
    if start.take == "named":
        return lambda name: any(fnmatchcase(name, pattern) for pattern in start.named)
    return lambda name: start.take == "all" or ATTENTION not in name


def _by_position(*models: LinaConfig) -> Callable[[str], bool]:
    """Whether a parameter is a gate with a weight for each token."""
    gates = {attention.gate for model in models for attention in model.decoder_blocks}
    endings = tuple(f".gate.{name}" for gate in gates for name in GATES[gate].by_position)
    return lambda name: name.endswith(endings)


def _positions(model: nn.Module) -> set[str]:
    """Names of the buffers that hold positions."""
    return {
        f"{name}.{buffer}"
        for name, module in model.named_modules()
        if isinstance(module, Positions)
        for buffer, _ in module.named_buffers()
    }


def _refusal(unfit: Sequence[str], differing: Sequence[str], target: LinaConfig, source: LinaConfig) -> str:
    why = ""
    if differing:
        theirs, ours = (", ".join(f"{f}={getattr(c, f)}" for f in differing) for c in (source, target))
        why = f" (the source has {theirs}, and the model {ours})"
    return (
        f"weights of the source do not fit the model{why}: {_some(unfit, '; ')}; with start.unfit=leave they are left "
        "out"
    )


def _some(names: Sequence[str], between: str = ", ") -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return between.join(names[:SHOWN]) + more


def _resized(scale_HT1: Tensor, source: LinaConfig, target: LinaConfig) -> Tensor:
    """A gate by position on another grid; condition tokens have a grid of their own."""
    image = (source.grid, target.grid)
    if not source.condition_tokens:
        return _interpolated(scale_HT1.float(), *image)
    parts = scale_HT1.float().tensor_split([source.condition_tokens], dim=1)
    grids = ((source.condition_grid, target.condition_grid), image)
    return torch.cat([_interpolated(part, *pair) for part, pair in zip(parts, grids, strict=True)], dim=1)


def _interpolated(scale_HT1: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    grid = rearrange(scale_HT1, "h (r c) 1 -> h 1 r c", r=before[0])
    return rearrange(F.interpolate(grid, after, mode="bilinear"), "h 1 r c -> h (r c) 1")
