"""Measures of an attention matrix: identities, and values by hand on planted matrices."""

import math

import pytest
import torch
from torch import Tensor

from lina_lab.evaluation.inspect.measures import (
    alike_rows,
    effective_rank,
    energy_share,
    mean_distance,
    near_share,
    negative_share,
    offsets,
    relative_change,
    row_entropy,
    shares,
)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_effective_rank_of_equal_singular_values_is_their_number() -> None:
    orthogonal, _ = torch.linalg.qr(normal(3, 6, 4))
    assert torch.allclose(effective_rank(5 * orthogonal), torch.tensor(4.0).double())
    assert float(effective_rank(normal(6, 1) @ normal(1, 6))) == pytest.approx(1)
    assert float(effective_rank(torch.zeros(3, 3).double())) == 0
    # Singular values 3 and 1: entropy ln 4 - 3/4 ln 3.
    assert float(effective_rank(torch.diag(torch.tensor([3.0, 1.0, 0.0]).double()))) == pytest.approx(4 / 3**0.75)


def test_the_effective_rank_lies_between_one_and_the_rank() -> None:
    rank = effective_rank(normal(20, 9, 3) @ normal(20, 3, 9))
    assert bool((rank > 1).all() and (rank <= 3 + 1e-9).all())


def test_equal_weights_have_the_logarithm_of_the_number_of_keys_in_nats() -> None:
    assert float(row_entropy(torch.full((7,), -0.3).double())) == pytest.approx(math.log(7))
    assert float(row_entropy(torch.eye(4).double()[0])) == 0
    assert float(row_entropy(torch.tensor([0.5, -0.25, 0.25]).double())) == pytest.approx(1.5 * math.log(2))


def test_the_share_of_negative_weight_is_by_absolute_values() -> None:
    assert float(negative_share(torch.tensor([2.0, -1.0, 0.0, -1.0]).double())) == 0.5
    assert float(negative_share(torch.ones(3).double())) == 0


def test_a_row_of_zeros_has_no_share_anywhere() -> None:
    assert shares(torch.zeros(4).double()).tolist() == [0, 0, 0, 0]


def test_near_shares_and_distances_of_a_planted_row_are_those_by_hand() -> None:
    grid = torch.arange(7 * 6).expand(1, -1)
    query = torch.tensor([[3 * 6 + 2]])  # row 3, column 2
    offset = offsets(query, grid, columns=6)
    row = torch.zeros(1, 1, 42).double()
    row[..., 3 * 6 + 2] = 0.5  # itself
    row[..., 2 * 6 + 3] = -0.2  # one up, one right
    row[..., 5 * 6 + 2] = 0.2  # two down
    row[..., 3 * 6 + 5] = 0.1  # three right
    assert float(near_share(row, offset, 3)) == pytest.approx(0.7)
    assert float(near_share(row, offset, 5)) == pytest.approx(0.9)
    assert float(mean_distance(row, offset)) == pytest.approx(0.2 * 2**0.5 + 0.2 * 2 + 0.1 * 3)
    equal = torch.ones_like(row)
    assert float(near_share(equal, offset, 3)) == pytest.approx(9 / 42)
    corner = offsets(torch.tensor([[0]]), grid, columns=6)
    assert float(near_share(equal, corner, 5)) == pytest.approx(9 / 42)


def test_unlike_queries_with_planted_equal_rows_are_counted_in_pairs() -> None:
    queries = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.01]]).double()
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]).double()
    # Five of six pairs are unlike: queries 2 and 3 are not. Of these one has equal rows.
    found = alike_rows(rows, queries, unlike=0.25, alike=0.05)
    assert float(found) == pytest.approx(1 / 5)
    assert float(alike_rows(rows, queries, unlike=0.4, alike=0.05)) == 0
    assert float(alike_rows(torch.eye(4).double(), queries, unlike=0.25, alike=0.05)) == 0
    assert float(alike_rows(rows, torch.ones(4, 2).double(), unlike=0.25, alike=0.05)) == 0


def test_the_relative_change_of_a_row_is_by_absolute_values() -> None:
    assert float(relative_change(torch.tensor([1.0, -1.0]), torch.tensor([1.5, -1.0]))) == 0.25


def test_the_energy_of_a_convolution_of_zeros_is_zero() -> None:
    other = normal(2, 3, 5)
    assert bool((energy_share(torch.zeros_like(other), other) == 0).all())
    assert torch.allclose(energy_share(2 * other, other), torch.tensor(0.8).double())
    assert float(energy_share(torch.zeros(4), torch.zeros(4))) == 0
