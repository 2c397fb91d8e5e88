"""Time and memory of one attention: `python benchmarks/attention.py [device=cuda] [dtypes=[float32]] [out=FOLDER]`.

Medians of forward and backward. The variants of a case run by turns, so that a ratio compares neighbors in time.

floor    the module's two linear layers alone, one after the other
linear   division, 5 x 5 depthwise convolution, KV gate: the published attention
naive    the same, written straightforwardly: permuted to heads, the normalizer a product of its own, the convolution
         padded with zeros for the condition tokens
plain    division without convolution and gate
softmax  PyTorch's scaled_dot_product_attention
"""

import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

# Silences the profiler, which counts the memory.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import pandas as pd
import torch
from einops import rearrange
from pydantic.dataclasses import dataclass as checked
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from lina_lab.config import CHECKS, AttentionConfig
from lina_lab.config.checks import PositiveInt
from lina_lab.config.grammar import Command
from lina_lab.model import Attention
from lina_lab.model.gates import PositionGate
from lina_lab.model.linear import EPSILON
from lina_lab.model.locality import DepthwiseConvolution
from lina_lab.util.compat.torch import profile_events

CASES = {
    "256px": ((8, 320, 768), 12, (16, 16), 64),
    "1024px": ((1, 5120, 1536), 16, (64, 64), 1024),
}
"""Name -> shape [B, T, D], heads, grid, condition tokens: the decoder of the paper's smallest and largest image."""
WIDTH, HEADS = 768, 12
SWEEP = [2**power for power in range(6, 15)]
PLAIN = AttentionConfig(conv="none", gate="none")
SOFTMAX = AttentionConfig(kind="softmax", conv="none", gate="none")


@checked(frozen=True, kw_only=True, config=CHECKS)
class BenchConfig:
    """Fields of the benchmark."""

    out: str = "reports/bench"
    """Folder of the tables."""
    device: Literal["cpu", "cuda"] | None = None
    """null: a GPU where there is one."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] | list[Literal["float32", "bfloat16"]] = ("float32", "bfloat16")
    """float32 as it is; bfloat16 by autocast."""
    threads: PositiveInt = 2
    """Threads on a CPU."""
    seconds: float = 10.0
    """Seconds for each variant of a case, with at least 5 rounds; a fifth of that for each point of the sweep."""
    sweep: bool = True
    """Whether to measure against the number of tokens, 64 to 16,384."""

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda: there is no GPU that PyTorch can use")


Step = Callable[[], None]
"""A forward and a backward pass."""


def naive(module: Attention, x_BTD: Tensor) -> Tensor:
    """The published attention, written without regard to its cost."""
    gate, conv = module.gate, module.conv
    assert isinstance(gate, PositionGate)
    assert isinstance(conv, DepthwiseConvolution)
    q, k, v = rearrange(module.qkv(x_BTD), "b t (three h e) -> three b h t e", three=3, h=module.num_heads)
    q, k = F.relu(q) + EPSILON, F.relu(k) + EPSILON
    assert gate.key_scale is not None
    assert gate.value_scale is not None
    k, v = k * gate.key_scale, v * gate.value_scale
    normalizer = q @ k.mean(-2, keepdim=True).mT + EPSILON
    o = q @ (k.mT @ v / k.shape[-2]) / normalizer
    o = rearrange(o, "b h t e -> b t (h e)")
    grid, condition = x_BTD[:, conv.condition_tokens :], x_BTD[:, : conv.condition_tokens]
    image = conv.conv(rearrange(grid, "b (r c) d -> b d r c", r=conv.grid[0]))
    local = torch.cat([torch.zeros_like(condition), rearrange(image, "b d r c -> b (r c) d")], dim=1)
    out: Tensor = module.proj(o + local)
    return out


def step(forward: Callable[[Tensor], Tensor], module: Attention, x: Tensor, dtype: str) -> Step:
    """A forward and a backward pass, with gradients of the input and of all weights."""
    upstream = torch.ones_like(x)

    def run() -> None:
        x.grad = None
        module.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            out = forward(x)
        torch.autograd.backward(out, upstream.to(out.dtype))
        if x.device.type == "cuda":
            torch.cuda.synchronize()

    return run


def variants(case: str, device: str, dtype: str) -> dict[str, Step]:
    """The variants that a case compares."""
    shape, heads, grid, condition = CASES[case]
    x = torch.randn(shape, device=device, requires_grad=True)
    linear, softmax = (
        Attention(shape[-1], heads, config, grid, condition).to(device) for config in (AttentionConfig(), SOFTMAX)
    )
    return {
        "floor": step(lambda x: linear.proj(linear.qkv(x)[..., : shape[-1]]), linear, x, dtype),
        "linear": step(linear, linear, x, dtype),
        "naive": step(lambda x: naive(linear, x), linear, x, dtype),
        "softmax": step(softmax, softmax, x, dtype),
    }


def timed(steps: dict[str, Step], seconds: float, *, least: int = 5) -> dict[str, list[float]]:
    """Seconds of each run but the first; variants run by turns until each has taken about `seconds`."""
    for run in steps.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in steps}
    start = time.perf_counter()
    while len(next(iter(times.values()))) < least or time.perf_counter() - start < seconds * len(steps):
        for name, run in steps.items():
            before = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - before)
    return times


def peak_bytes(run: Step, device: str) -> int:
    """Peak of the memory that a run allocates, in bytes."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    changes = [e for e in profile_events(profiled) if e.name() == "[memory]"]
    return int(pd.Series([e.nbytes() for e in sorted(changes, key=lambda e: e.start_ns())]).cumsum().max())


def measure_cases(config: BenchConfig, device: str, dtype: str) -> pd.DataFrame:
    """A table with a row for each case and variant."""
    rows: list[dict[str, Any]] = []
    for case in CASES:
        steps = variants(case, device, dtype)
        memory = {name: peak_bytes(run, device) for name, run in steps.items()}
        times = pd.DataFrame(timed(steps, config.seconds))
        for name in steps:
            rows.append(
                {
                    "case": case,
                    "shape": "x".join(map(str, CASES[case][0])),
                    "variant": name,
                    "rounds": len(times),
                    "median_ms": 1e3 * times[name].median(),
                    "low_ms": 1e3 * times[name].quantile(0.25),
                    "high_ms": 1e3 * times[name].quantile(0.75),
                    "times_floor": times[name].median() / times["floor"].median(),
                    "peak_mib": memory[name] / 2**20,
                }
            )
            print(f"{dtype}  " + describe(rows[-1]), flush=True)
    return pd.DataFrame(rows)


def describe(row: dict[str, Any]) -> str:
    """A row as text."""
    return (
        f"{row['case']:7} {row['variant']:8} {row['median_ms']:9.1f} ms  {row['times_floor']:5.2f} x floor  "
        f"{row['peak_mib']:7.0f} MiB"
    )


def measure_sweep(config: BenchConfig, device: str, dtype: str) -> pd.DataFrame:
    """A table with a row for each number of tokens and variant: one image, width 768, all tokens on a grid."""
    rows: list[dict[str, Any]] = []
    for tokens in SWEEP:
        columns = 2 ** (tokens.bit_length() // 2)
        x = torch.randn(1, tokens, WIDTH, device=device, requires_grad=True)
        modules = {
            name: Attention(WIDTH, HEADS, attention, (tokens // columns, columns), 0).to(device)
            for name, attention in (("linear", AttentionConfig()), ("plain", PLAIN), ("softmax", SOFTMAX))
        }
        steps = {name: step(module, module, x, dtype) for name, module in modules.items()}
        memory = {name: peak_bytes(run, device) for name, run in steps.items()}
        times = pd.DataFrame(timed(steps, config.seconds / 5, least=3))
        for name in steps:
            rows.append(
                {
                    "tokens": tokens,
                    "variant": name,
                    "rounds": len(times),
                    "median_ms": 1e3 * times[name].median(),
                    "peak_mib": memory[name] / 2**20,
                }
            )
        print(
            f"{dtype}  {tokens:6} tokens  " + "  ".join(f"{r['variant']} {r['median_ms']:.1f} ms" for r in rows[-3:]),
            flush=True,
        )
    return pd.DataFrame(rows)


def device_name(device: str) -> str:
    """The device's name, for file names."""
    return torch.cuda.get_device_name().replace(" ", "-") if device == "cuda" else "cpu"


def run(config: BenchConfig) -> int:
    """Measure, and write a table for each dtype; returns 0.

    Raises:
        OSError: the folder cannot be created.
    """
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    for dtype in config.dtypes:
        ending = f"{device_name(device)}-{dtype}-torch{torch.__version__.split('+')[0]}.csv"
        measure_cases(config, device, dtype).to_csv(folder / f"attention-{ending}", index=False)
        print(folder / f"attention-{ending}")
        if config.sweep and dtype == "float32":
            measure_sweep(config, device, dtype).to_csv(folder / f"tokens-{ending}", index=False)
            print(folder / f"tokens-{ending}")
    return 0


COMMAND = Command(config=BenchConfig, run=run, doc=__doc__, errors=(OSError,))

if __name__ == "__main__":
    sys.exit(COMMAND.main(sys.argv[1:]))
