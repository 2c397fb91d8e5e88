"""The number of threads that a trial computes with: it decides the order of sums, and with it the rounding."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Compute with so many threads, whatever the number of processors, workers and `OMP_NUM_THREADS` are.

    Args:
        count: threads of this process, in torch and in the linear algebra of NumPy and SciPy.
    """
    # Only a library that is loaded can be limited, and the Frechet distance would load this one later.
    import scipy.linalg  # noqa: F401

    before = torch.get_num_threads()
    # torch also turns off MKL's own choice of fewer threads (ATen/ParallelOpenMP.cpp).
    torch.set_num_threads(count)
    try:
        with threadpool_limits(limits=count, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
