"""How work is divided among ranks. The reader of data and the source of noise must agree on it."""


def share(count: int, part: int, parts: int) -> range:
    """The indices of `count` items that belong to one of several parts: contiguous, and as even as possible."""
    return range(count * part // parts, count * (part + 1) // parts)


def microbatch(
    batch_size: int, *, rank: int, world_size: int, accumulation_step: int, accumulate_grad_batches: int
) -> range:
    """A rank's indices in the batch of all ranks, in one accumulation step of an optimizer step."""
    mine = share(batch_size, rank, world_size)
    part = share(len(mine), accumulation_step, accumulate_grad_batches)
    return range(mine.start + part.start, mine.start + part.stop)


def held_out(batch: int, *, rank: int, world_size: int) -> tuple[range, int]:
    """A rank's indices in a batch that is evaluated, and how many of them count.

    Every rank gets at least one, so that all take part in collective operations; if there are more ranks than images,
    some ranks get one that does not count.
    """
    mine = share(batch, rank, world_size)
    return (mine, len(mine)) if len(mine) else (range(1), 0)
