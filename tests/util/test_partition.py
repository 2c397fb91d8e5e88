"""How work is divided among ranks."""

import pytest

from lina_lab.util.partition import held_out, microbatch, share


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("count", [0, 1, 10, 17])
def test_shares_are_consecutive_even_and_lose_nothing(count: int, parts: int) -> None:
    shares = [share(count, part, parts) for part in range(parts)]
    assert [index for one in shares for index in one] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("world_size", "accumulate_grad_batches"), [(1, 1), (2, 1), (1, 4), (4, 2), (8, 3)])
def test_all_ranks_and_accumulation_steps_have_the_whole_batch(world_size: int, accumulate_grad_batches: int) -> None:
    indices = [
        index
        for rank in range(world_size)
        for accumulation_step in range(accumulate_grad_batches)
        for index in microbatch(
            24,
            rank=rank,
            world_size=world_size,
            accumulation_step=accumulation_step,
            accumulate_grad_batches=accumulate_grad_batches,
        )
    ]
    assert indices == list(range(24))


@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_every_image_that_is_evaluated_counts_once_and_every_rank_has_one(world_size: int) -> None:
    for batch in (1, 5, 8, 20):
        parts = [held_out(batch, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert all(len(indices) >= 1 for indices, _ in parts)
        assert [p for indices, counted in parts for p in list(indices)[:counted]] == list(range(batch))
