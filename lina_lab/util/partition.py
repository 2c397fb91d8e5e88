"""How work is divided among ranks: whoever reads data and whoever draws noise must agree on it."""


def share(count: int, part: int, parts: int) -> range:
    """The places of `count` that belong to one of several parts: beside each other, as even as can be."""
    return range(count * part // parts, count * (part + 1) // parts)


def microbatch(
    batch_size: int, *, rank: int, world_size: int, accumulation_step: int, accumulate_grad_batches: int
) -> range:
    """A rank's indices in the batch of all ranks, in one accumulation step of an optimizer step."""
    mine = share(batch_size, rank, world_size)
    part = share(len(mine), accumulation_step, accumulate_grad_batches)
    return range(mine.start + part.start, mine.start + part.stop)


def held_out(batch: int, *, rank: int, world_size: int) -> tuple[range, int]:
    """A rank's places in a batch that is evaluated, and how many of them count.

    Every rank has one at least, so that all take part in what all must take part in; where there are more ranks than
    images, some have one that counts for nothing.
    """
    mine = share(batch, rank, world_size)
    return (mine, len(mine)) if len(mine) else (range(1), 0)
