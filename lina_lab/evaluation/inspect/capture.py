"""What each attention of a model gets and gives on a batch, block by block, while the model runs as ever.

Shapes: B images, H heads, T tokens, n image tokens (the last of the T), E channels of a head, D width, R query rows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from lina_lab.evaluation.inspect.measures import offsets
from lina_lab.evaluation.inspect.replay import Call
from lina_lab.model.attention import Attention
from lina_lab.model.backbone import MaskedAutoencoder, Stack
from lina_lab.model.linear import Weights

PARTS = {"condition_encoder.blocks": "condition", "backbone.encoder": "encoder", "backbone.decoder": "decoder"}
"""Where a stack of blocks is in a model -> its name in tables; others keep their own, as `blocks` of one stack."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How closely is looked."""

    rows: int = 256
    """Query rows of each matrix that are looked at: all where there are no more tokens, else a random subset."""
    pair_rows: int = 64
    """Rows among these that are compared in pairs."""
    unlike: float = 0.25
    """Relative distance above which two queries are unlike; q and 2 q have 1/3."""
    alike: float = 0.05
    """Relative distance below which two rows are alike."""
    seed: int = 0
    """Of the random subset and of the tokens whose receptive field is measured."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One attention on one batch."""

    part: str
    block: int
    """Number in its stack, from 0."""
    attention: Attention
    x: Tensor
    """The attention's input [B, T, D]."""
    rotation: Any
    call: Call
    """The call of its core, in float64."""
    places: Tensor
    """Numbers of the image tokens on the grid in row order, int64 [B, n]; n = 0: the tokens are on no grid."""
    grid: tuple[int, int]
    """Rows and columns of that grid."""
    settings: Settings

    @property
    def name(self) -> str:
        """Of the block, in files: part.block."""
        return f"{self.part}.{self.block}"

    @property
    def tokens(self) -> int:
        """Tokens T."""
        return self.x.shape[1]

    @property
    def heads(self) -> int:
        """Heads H."""
        return self.attention.num_heads

    @cached_property
    def rows(self) -> Tensor:
        """Numbers of the query rows that are looked at, ascending, int64 [R]: the same for all images."""
        return self._some(self.settings.rows, self.tokens, "rows")

    @cached_property
    def pairs(self) -> Tensor:
        """Which of these rows are compared in pairs, int64."""
        return self._some(self.settings.pair_rows, len(self.rows), "pairs")

    def _some(self, most: int, count: int, use: str) -> Tensor:
        device = self.x.device
        if count <= most:
            return torch.arange(count, device=device)
        generator = torch.Generator().manual_seed(self.settings.seed + (use == "pairs"))
        return torch.randperm(count, generator=generator)[:most].sort().values.to(device)

    @cached_property
    def matrix(self) -> Tensor:
        """These rows of the attention matrix, [B, H, R, T]."""
        return self.call.matrix(self.rows)

    @cached_property
    def output(self) -> Tensor:
        """The core's outputs, [B, H, T, E]."""
        return self.call.output()

    @property
    def condition_tokens(self) -> int:
        """Tokens in front of the image tokens."""
        return self.tokens - self.places.shape[1]

    @cached_property
    def image_rows(self) -> Tensor:
        """Which of the rows are those of image tokens, bool [R]."""
        return self.rows >= self.condition_tokens

    def on_grid(self, rows_BHRT: Tensor) -> Tensor:
        """Weights of image tokens on image tokens, of rows [B, H, R, T]."""
        return rows_BHRT[:, :, self.image_rows, self.condition_tokens :]

    @cached_property
    def offset(self) -> Tensor:
        """Rows and columns from the queries that are image tokens to all image tokens, [B, 1, R, n, 2]."""
        queries = self.places[:, self.rows[self.image_rows] - self.condition_tokens]
        return offsets(queries, self.places, self.grid[1]).unsqueeze(1)

    def gates(self) -> dict[str, Tensor]:
        """Weights on tokens by what they act on, [B, H, T] each; one that is a key's and the normalizer's is the key's.

        Empty: the gate has no weights on tokens.
        """
        weights, shape = self.call.weights, (len(self.x), self.heads, self.tokens, 1)
        found = {name: w for name, w in vars(weights).items() if w is not None}
        if "key" in found and "normalizer" in found and torch.equal(found["key"], found["normalizer"]):
            del found["normalizer"]
        return {name: w.expand(shape).squeeze(-1) for name, w in found.items()}

    def convolution(self) -> tuple[Tensor, Tensor] | None:
        """What the convolution adds, and what it is added to, [B, H, T, E] each; None: there is no convolution."""
        attention = self.attention
        if attention.conv is None:
            return None
        heads = partial(rearrange, pattern="b t (h e) -> b h t e", h=self.heads)
        o_BTD, v_BTD = (
            rearrange(part, "b h t e -> b t (h e)").to(self.x.dtype) for part in (self.output, self.call.qkv[2])
        )
        if attention.head_norm is not None:
            o_BTD = attention.head_norm(self.x, o_BTD)
        return heads(attention.conv.forward(self.x, v_BTD).double()), heads(o_BTD.double())

    def receptive_field(self) -> tuple[Tensor, Tensor] | None:
        """Squared gradient of one random image token of each image: [B, 1, 1, n], with the offsets [B, 1, 1, n, 2].

        The gradient is that of the attention module's output, in a direction of random signs over the channels, with
        respect to its input tokens: its square is, on average over directions, that of the whole Jacobian. Source: Luo
        et al., arXiv 1701.04128.

        Returns:
            None: the tokens are on no grid.
        """
        batch, count = self.places.shape
        if not count:
            return None
        generator = torch.Generator().manual_seed(self.settings.seed)
        token = torch.randint(count, (batch, 1), generator=generator).to(self.x.device)
        sign = torch.randint(2, (batch, self.x.shape[-1]), generator=generator).to(self.x) * 2 - 1
        with torch.enable_grad():
            x = self.x.detach().clone().requires_grad_()
            y = self.attention.forward(x, self.rotation)
            image = torch.arange(batch, device=x.device)
            (gradient,) = torch.autograd.grad((y[image, self.condition_tokens + token[:, 0]] * sign).sum(), x)
        energy = gradient.double().square().sum(-1)[:, None, None, self.condition_tokens :]
        return energy, offsets(self.places.gather(1, token), self.places, self.grid[1]).unsqueeze(1)


@contextmanager
def watched(model: nn.Module, settings: Settings, visit: Callable[[Look], None]) -> Iterator[None]:
    """While the context lasts, each attention of the model's stacks is looked at right after it ran, in eval mode.

    What one block holds is free before the next one runs. Hooks are removed, and modules are in the mode that they were
    in, when the context ends. The model is to be called without gradients.

    Args:
        model: of any task; its blocks are not compiled.
        settings: how closely is looked.
        visit: called for each attention, in the order in which they run.
    """
    modes = [(module, module.training) for module in model.modules()]
    handles, visible = [], _Visible()
    for path, stack in model.named_modules():
        if isinstance(stack, MaskedAutoencoder):
            handles.append(stack.register_forward_pre_hook(visible.keep))
        if isinstance(stack, Stack):
            for number, block in enumerate(stack):
                for attention in (m for m in block.modules() if isinstance(m, Attention)):
                    watch = _Watch(model, PARTS.get(path, path), number, settings, visit, visible)
                    handles.append(attention.core.register_forward_pre_hook(watch.core))
                    handles.append(attention.register_forward_hook(watch.attention))
    model.eval()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training


@dataclass
class _Visible:
    """The tokens that LINA's encoder sees."""

    ids: Tensor | None = None
    """int64 [B, V]"""

    def keep(self, backbone: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Take them from the arguments of `MaskedAutoencoder.forward`."""
        self.ids = arguments[2]


@dataclass
class _Watch:
    """The hooks of one attention."""

    model: Any
    part: str
    block: int
    settings: Settings
    visit: Callable[[Look], None]
    visible: _Visible
    called: Call | None = None

    def core(self, core: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Keep what the core was called with."""
        if torch.is_grad_enabled():
            return  # a receptive field's own call
        qkv, weights, *numerator = arguments
        precise = Weights(*(None if w is None else w.double() for w in vars(weights).values()))
        self.called = Call(core=core, qkv=qkv.double(), weights=precise, numerator=next(iter(numerator), None))

    def attention(self, attention: Attention, arguments: tuple[Any, ...], output: Tensor) -> None:
        """Look at it."""
        call, self.called = self.called, None
        assert call is not None
        x, rotation = (*arguments, None)[:2]
        places, grid = self._places(x)
        self.visit(
            Look(
                part=self.part,
                block=self.block,
                attention=attention,
                x=x,
                rotation=rotation,
                call=call,
                places=places,
                grid=grid,
                settings=self.settings,
            )
        )

    def _places(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Numbers of the image tokens on their grid, [B, n], and the grid."""
        config = self.model.config
        if self.part == "encoder" and self.visible.ids is not None:
            return self.visible.ids, config.grid
        grid = config.condition_grid if self.part == "condition" else config.grid
        count = grid[0] * grid[1]
        places = torch.arange(count if x.shape[1] >= count else 0, device=x.device)
        return places.expand(len(x), -1), grid
