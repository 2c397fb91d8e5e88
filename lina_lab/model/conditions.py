"""Classes and texts: what a batch is conditioned on, and the embeddings of them.

Shapes: B batch, L prefix tokens, l states of a text, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lina_lab.config import LinaConfig
from lina_lab.model.layers import TwoLayer


def check_condition(config: LinaConfig, label: Tensor | None, text: Tensor | None, batch: int | None) -> None:
    """Refuse a condition that the model does not take.

    Raises:
        ValueError: not exactly one of label, text and batch, or one that the model is not conditioned on.
    """
    if sum(argument is not None for argument in (label, text, batch)) != 1:
        raise ValueError("condition needs one of label, text and batch (batch is for images without class and text)")
    if (label is not None and config.num_classes is None) or (text is not None and config.text_dim is None):
        argument, field = ("label", "num_classes") if text is None else ("text", "text_dim")
        raise ValueError(f"this model takes no {argument}: it is not conditioned on it ({field}=None)")


def drop_conditions(
    config: LinaConfig, drop: Tensor, label: Tensor | None, text: Tensor | None, present: Tensor | None
) -> dict[str, Any]:
    """The arguments `label`, `text`, `present` and `batch` of a condition, without what `drop`, bool [B], says."""
    if label is not None:
        label = label.masked_fill(drop, config.num_classes or 0)
    if text is not None:
        present = (all_present(text) if present is None else present) & ~drop.unsqueeze(1)
    batch = len(drop) if label is None and text is None else None
    return {"label": label, "text": text, "present": present, "batch": batch}


def all_present(text: Tensor) -> Tensor:
    """Of text [B, l, ...], that each state exists: bool [B, l]."""
    return torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)


def guidance_misfit(config: LinaConfig) -> str | None:
    """Why a model cannot be guided, as a sentence; None: it can."""
    if not config.conditional:
        return "guidance needs a model with a condition (num_classes or text_dim)"
    if not config.guidable:
        return "guidance needs a model that has trained without its condition too, and its condition_dropout is 0"
    return None


class ClassEmbedding(nn.Module):
    """Maps a class to one prefix token; the last row of the table means "no class". The norm is frozen."""

    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes + 1, dim)
        self.norm = nn.LayerNorm(dim).requires_grad_(False)

    def forward(self, label_B: Tensor) -> Tensor:
        return self.norm(self.table(label_B)).unsqueeze(1)


def check_length(text: Tensor, length: int) -> None:
    """Refuse a text [B, l, text_dim] of more states than the model takes.

    Raises:
        ValueError: l > length.
    """
    if text.shape[1] > length:
        raise ValueError(f"text has {text.shape[1]} states, and the model takes text_length={length}")


class TextEmbedding(nn.Module):
    """Maps a text encoder's hidden states to L prefix tokens.

    Absent states, and all states of a dropped text, come from a fixed random table that is saved with the weights.
    """

    ROWS = 512

    def __init__(self, text_dim: int, length: int, dim: int) -> None:
        super().__init__()
        self.length = length
        self.table = nn.Parameter(torch.zeros(self.ROWS, text_dim), requires_grad=False)
        self.proj = nn.Linear(text_dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, text: Tensor, present: Tensor) -> Tensor:
        """text [B, l, text_dim] with l <= L, present bool [B, l]; returns [B, L, D].

        Raises:
            ValueError: more than L states.
        """
        check_length(text, self.length)
        missing = self.length - text.shape[1]
        text, present = F.pad(text, (0, 0, 0, missing)), F.pad(present, (0, missing))
        filled = torch.where(present.unsqueeze(-1), text, self.table[: self.length].to(text.dtype))
        return self.norm(self.proj(filled))


class PooledText(nn.Module):
    """Maps a text encoder's hidden states to one vector: the mean over the states of an MLP of each, then LayerNorm.

    The MLP comes before the mean, so that the vector can tell texts of the same words in another order if the states
    know their positions. A text without states is a learned vector.
    """

    def __init__(self, text_dim: int, length: int, dim: int) -> None:
        super().__init__()
        self.length = length
        self.none = nn.Parameter(torch.zeros(dim))
        self.mlp = TwoLayer(text_dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, text: Tensor, present: Tensor) -> Tensor:
        """text [B, l, text_dim] with l <= L, present bool [B, l]; returns [B, D].

        Raises:
            ValueError: more than L states.
        """
        check_length(text, self.length)
        there = present.unsqueeze(-1)
        total = self.mlp(text).masked_fill(~there, 0.0).sum(1)
        pooled = self.norm(total / there.sum(1).clamp(min=1))
        return torch.where(there.any(1), pooled, self.none.to(pooled.dtype))


class TimeZero(nn.Module):
    """The constant that is added to every condition token: LayerNorm of an MLP of the sinusoid of time 0; frozen."""

    sinusoid: Tensor

    def __init__(self, dim: int, width: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)
        self.requires_grad_(False)
        sinusoid_of_zero = torch.cat([torch.zeros(width // 2), torch.ones(width // 2)])
        self.register_buffer("sinusoid", sinusoid_of_zero, persistent=False)

    def forward(self) -> Tensor:
        return self.norm(self.mlp(self.sinusoid))
