"""What describes an attention matrix, as pure functions on plain tensors in float64.

Shapes: R queries (rows), T keys, n image tokens; `...` any leading axes, such as images and heads.

Weights may be negative (subtraction) and, under gates, sum to anything. Where a distribution over the keys is needed,
a row is taken by its absolute values, divided by their sum.
"""

import torch
from torch import Tensor


def effective_rank(matrix: Tensor) -> Tensor:
    """`exp(-Σ p ln p)` with p the singular values divided by their sum: [..., R, C] to [...].

    It lies between 1 and the rank, and is the rank where all singular values that are not 0 are equal. A matrix of
    zeros has 0. Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    singular = torch.linalg.svdvals(matrix)
    total = singular.sum(-1, keepdim=True)
    share = singular / torch.where(total > 0, total, 1.0)
    return torch.where(total.squeeze(-1) > 0, torch.exp(-torch.xlogy(share, share).sum(-1)), 0.0)


def shares(rows: Tensor) -> Tensor:
    """Absolute weights divided by their sum: [..., T] to [..., T]; a row of zeros stays one."""
    absolute = rows.abs()
    total = absolute.sum(-1, keepdim=True)
    return absolute / torch.where(total > 0, total, 1.0)


def row_entropy(rows: Tensor) -> Tensor:
    """`-Σ p ln p` of each row's shares p, in nats: [..., R, T] to [..., R]; equal weights have ln T."""
    share = shares(rows)
    return -torch.xlogy(share, share).sum(-1)


def negative_share(rows: Tensor) -> Tensor:
    """Sum of |negative weights| by the sum of all |weights|: [..., R, T] to [..., R]."""
    return (shares(rows) * (rows < 0)).sum(-1)


def offsets(query_places: Tensor, places: Tensor, columns: int) -> Tensor:
    """Rows and columns from queries to keys on a grid, float64.

    Args:
        query_places: numbers of the queries' tokens in row order, int64 [..., R].
        places: those of the keys, int64 [..., n].
        columns: of the grid.

    Returns:
        [..., R, n, 2].
    """
    query, key = (torch.stack([p // columns, p % columns], dim=-1).double() for p in (query_places, places))
    return query.unsqueeze(-2) - key.unsqueeze(-3)


def near_share(rows: Tensor, offset: Tensor, side: int) -> Tensor:
    """Share of the weight in the square of `side` x `side` tokens around the query: [..., R, n] to [..., R].

    Args:
        rows: weights on image tokens.
        offset: see `offsets`, [..., R, n, 2].
        side: odd.
    """
    near: Tensor = offset.abs().amax(-1) <= side // 2
    return (shares(rows) * near).sum(-1)


def mean_distance(rows: Tensor, offset: Tensor) -> Tensor:
    """Mean Euclidean distance of the weight from the query, in tokens: [..., R, n] to [..., R]."""
    distance: Tensor = offset.norm(dim=-1)
    return (shares(rows) * distance).sum(-1)


def alike_rows(rows: Tensor, queries: Tensor, *, unlike: float, alike: float) -> Tensor:
    """Share of the pairs of unlike queries whose rows are alike: 0 if attention tells all unlike queries apart.

    Queries are unlike where `|q_i - q_j| > unlike (|q_i| + |q_j|)`; q and 2 q differ by 1/3 of that sum. Rows are alike
    where `Σ|a_i - a_j| < alike Σ(|a_i| + |a_j|)`.

    Args:
        rows: [..., R, T].
        queries: [..., R, E].
        unlike: threshold in 0..1.
        alike: threshold in 0..1.

    Returns:
        [...]; 0 where no two queries are unlike.
    """
    norm: Tensor = queries.norm(dim=-1)
    size = rows.abs().sum(-1)
    apart = torch.cdist(queries, queries, compute_mode="donot_use_mm_for_euclid_dist")
    differ = apart > unlike * (norm.unsqueeze(-1) + norm.unsqueeze(-2))
    near = torch.cdist(rows, rows, p=1.0) < alike * (size.unsqueeze(-1) + size.unsqueeze(-2))
    pairs = differ.sum((-2, -1))
    share: Tensor = (differ & near).sum((-2, -1)).double() / pairs.clamp(min=1)
    return share


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """`Σ|after - before| / Σ|before|` of each row: [..., R, T] to [..., R]."""
    change: Tensor = (after - before).abs().sum(-1) / before.abs().sum(-1)
    return change


def energy_share(part: Tensor, rest: Tensor) -> Tensor:
    """`|part|² / (|part|² + |rest|²)` over the channels: [..., E] to [...]; 0 where both are zero."""
    own, other = part.square().sum(-1), rest.square().sum(-1)
    total = own + other
    return own / torch.where(total > 0, total, 1.0)
