"""Attention's kernels on a GPU, and the roofline: `python benchmarks/gpu.py [device=cpu] [out=FOLDER]`.

First it compares the module's output and gradients with float64, and ends with 1 where they differ. Then it measures,
in one run: the rate of matrix products and the bandwidth of copies, the attention module against the number of tokens
in each precision, a training step, and the generation of an image. Files are named with device and torch version.

floor    the module's two linear layers alone
kernels  the published attention with `lina_lab.kernels`, where they take it
eager    the same without them
softmax, cudnn, flash  PyTorch's scaled_dot_product_attention: as it chooses, and with one backend
FA3, FA4 ...  the same with a FlashAttention that PyTorch knows, where its package is installed

roofline_share is the least time for the form's products at the measured rate and its core's reads and writes at the
measured bandwidth, by the time it took.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import torch
from pydantic.dataclasses import dataclass as checked
from torch import Tensor

from benchmarks.attention import SOFTMAX, device_name
from benchmarks.attention_figures import crossing
from benchmarks.common.softmax import Surrounding, runs, ways_of_softmax
from lina_lab.config import CHECKS, AttentionConfig, LinaConfig
from lina_lab.config.checks import PositiveInt
from lina_lab.config.grammar import Command
from lina_lab.kernels import takes_attention
from lina_lab.model import LINA, Attention

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCES = {"float32": 1e-4, "bfloat16": 4e-2, "float16": 1e-2}
PASSES = {"forward": 1, "forward + backward": 3}
"""Name of a measured pass -> how often it does the forward pass's products."""


@checked(frozen=True, kw_only=True, config=CHECKS)
class GpuBenchConfig:
    """Fields of the benchmark."""

    out: str = "reports/bench"
    """Folder of the tables and the figure."""
    device: Literal["cpu", "cuda"] = "cuda"
    """A CPU has no kernels: for a try of this script."""
    tokens: tuple[PositiveInt, ...] | list[PositiveInt] = (64, 256, 320, 1024, 4096, 5120, 16384)
    """Numbers of tokens: powers of two for images alone, or five times one, of which a fifth is the condition (320 and
    5,120: the paper's decoders)."""
    width: PositiveInt = 1536
    """Width D of module and model."""
    heads: PositiveInt = 16
    """Attention heads."""
    depth: PositiveInt = 32
    """Blocks of the model's encoder and decoder; half as many in the condition encoder."""
    side: PositiveInt = 64
    """Side of the model's latent images: 64 for 1,024 px with a patch of 1."""
    rounds: PositiveInt = 20
    """Runs of each form, after three that are not counted."""
    steps: PositiveInt = 16
    """Autoregressive steps of the image."""
    size: PositiveInt = 8192
    """Side of the matrices whose product gives the rate; copies have as many numbers."""

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device=cuda: there is no GPU that PyTorch can use")
        for tokens in self.tokens:
            if condition_and_image(tokens)[1].bit_count() != 1:
                raise ValueError(f"tokens={tokens} is neither a power of two, which fills a grid, nor five times one")


def condition_and_image(tokens: int) -> tuple[int, int]:
    """Condition tokens and image tokens of a decoder with so many tokens; five times a power of two has both."""
    return (tokens // 5, tokens // 5 * 4) if tokens % 5 == 0 else (0, tokens)


@contextmanager
def kernels(wanted: bool) -> Iterator[None]:
    """The kernels where they can compute, or the eager form alone."""
    before = os.environ.get("LINA_KERNELS")
    os.environ["LINA_KERNELS"] = "1" if wanted else "0"
    try:
        yield
    finally:
        os.environ.pop("LINA_KERNELS")
        if before is not None:
            os.environ["LINA_KERNELS"] = before


def median_seconds(run: Callable[[], Any], config: GpuBenchConfig, *, warm: int = 3) -> float:
    """Median time of a run after `warm` others, until the device is done."""
    times = []
    for number in range(config.rounds + warm):
        start = time.perf_counter()
        run()
        if config.device == "cuda":
            torch.cuda.synchronize()
        if number >= warm:
            times.append(time.perf_counter() - start)
    return float(pd.Series(times).median())


def roofline(config: GpuBenchConfig, dtype: torch.dtype) -> tuple[float, float]:
    """Operations a second of a matrix product, and bytes a second of a copy, read and written."""
    a, b, out = (torch.randn(config.size, config.size, device=config.device).to(dtype) for _ in range(3))
    rate = 2 * config.size**3 / median_seconds(lambda: torch.mm(a, b, out=out), config)
    return rate, 2 * a.numel() * a.element_size() / median_seconds(lambda: out.copy_(a), config)


def module(config: GpuBenchConfig, tokens: int, attention: AttentionConfig, dtype: torch.dtype) -> Attention:
    """An attention over the tokens of a condition and an image."""
    condition, image = condition_and_image(tokens)
    columns = 2 ** (image.bit_length() // 2)
    grid = image // columns, columns
    return Attention(config.width, config.heads, attention, grid, condition).to(config.device, dtype)


def parity(config: GpuBenchConfig) -> pd.DataFrame:
    """Largest error of the output and of each gradient, by its largest value in float64, in each precision."""
    rows = []
    for name, dtype in DTYPES.items():
        ours = module(config, 256, AttentionConfig(feature_map="elu"), dtype)
        exact = module(config, 256, AttentionConfig(feature_map="elu"), torch.float64)
        exact.load_state_dict(ours.state_dict())
        x, upstream = (torch.randn(2, 256, config.width, device=config.device).to(dtype) for _ in range(2))
        results = []
        for form in (ours, exact):
            own = x.to(next(form.parameters()).dtype).requires_grad_()
            out = form(own)
            results.append([out, *torch.autograd.grad(out, [own, *form.parameters()], upstream.to(out))])
        numbers = ["output", "input", *(parameter for parameter, _ in ours.named_parameters())]
        for number, found, wanted in zip(numbers, *results, strict=True):
            error = float((found.double() - wanted).detach().abs().max() / wanted.detach().abs().max())
            rows.append({"dtype": name, "number": number, "error": error, "holds": error <= TOLERANCES[name]})
    return pd.DataFrame(rows)


def forms(
    config: GpuBenchConfig, tokens: int, dtype: torch.dtype
) -> dict[str, tuple[Surrounding, Callable[[Tensor], Tensor]]]:
    """The forms of attention that are compared."""
    linear, softmax = (module(config, tokens, attention, dtype) for attention in (AttentionConfig(), SOFTMAX))
    found: dict[str, tuple[Surrounding, Callable[[Tensor], Tensor]]] = {
        "floor": (nullcontext, lambda x: linear.proj(linear.qkv(x)[..., : config.width])),
        "kernels": (nullcontext, linear),
        "eager": (partial(kernels, False), linear),
        "softmax": (nullcontext, softmax),
    }
    if _on_gpu(config) and dtype != torch.float32:
        found |= {name: (way, softmax) for name, way in ways_of_softmax().items() if runs(softmax, name, way)}
    return found


def _on_gpu(config: GpuBenchConfig) -> bool:
    return config.device == "cuda"


def least_seconds(
    form: str, config: GpuBenchConfig, tokens: int, dtype: torch.dtype, top: tuple[float, float]
) -> float:
    """The roofline of a forward pass: products, then the core, which is bound by memory or by its products."""
    rate, bandwidth = top
    layers = 8 * tokens * config.width**2 / rate
    read = 4 * tokens * config.width * dtype.itemsize / bandwidth
    if form == "floor":
        return layers
    if form in ("kernels", "eager"):  # with the convolution's reads and writes
        return layers + 7 / 4 * read
    return layers + max(4 * tokens**2 * config.width / rate, read)


def table(config: GpuBenchConfig) -> pd.DataFrame:
    """A row for each precision, number of tokens, pass and form."""
    rows: list[dict[str, Any]] = []
    for name, dtype in DTYPES.items():
        top = roofline(config, dtype)
        print(f"{name}: {top[0] / 1e12:.3g} TFLOP/s in products, {top[1] / 1e9:.4g} GB/s in copies", flush=True)
        for tokens in config.tokens:
            x = torch.randn(1, tokens, config.width, device=config.device).to(dtype).requires_grad_()
            upstream = torch.ones_like(x)
            for passes, times in PASSES.items():
                found = {}
                for form, (surrounding, attend) in forms(config, tokens, dtype).items():
                    with surrounding():
                        found[form] = median_seconds(_run(attend, x, upstream, backward=times > 1), config)
                for form, seconds in found.items():
                    least = times * least_seconds(form, config, tokens, dtype, top)
                    rows.append(
                        {
                            "dtype": name,
                            "tokens": tokens,
                            "pass": passes,
                            "form": form,
                            "median_ms": 1e3 * seconds,
                            "times_softmax": seconds / found["softmax"],
                            "times_floor": seconds / found["floor"],
                            "roofline_share": least / seconds,
                            "product_tflops": top[0] / 1e12,
                            "copy_gbytes": top[1] / 1e9,
                        }
                    )
                print(
                    f"{name} {tokens:6} tokens, {passes}: "
                    + "  ".join(f"{form} {1e3 * seconds:.3f} ms" for form, seconds in found.items()),
                    flush=True,
                )
    return pd.DataFrame(rows)


def _run(attend: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor, *, backward: bool) -> Callable[[], Any]:
    def forward() -> None:
        with torch.no_grad():
            attend(x)

    return (lambda: torch.autograd.backward(attend(x), upstream)) if backward else forward


def whole(config: GpuBenchConfig) -> pd.DataFrame:
    """A training step with gradient checkpointing, and an image with guidance, in bfloat16 by autocast."""
    rows = []
    for name, attention in (("kernels", AttentionConfig()), ("eager", AttentionConfig()), ("softmax", SOFTMAX)):
        if _on_gpu(config):
            torch.cuda.reset_peak_memory_stats()
        with kernels(name != "eager"):
            seconds = _step_and_image(config, attention)
        peak = torch.cuda.max_memory_allocated() / 2**30 if _on_gpu(config) else float("nan")
        for what, value in seconds.items():
            rows.append({"what": what, "form": name, "seconds": value, "peak_gib": peak})
            print(f"{what}, {name}: {value:.3f} s, {peak:.1f} GiB at most", flush=True)
    return pd.DataFrame(rows)


def _step_and_image(config: GpuBenchConfig, attention: AttentionConfig) -> dict[str, float]:
    settings = LinaConfig(
        dim=config.width,
        num_heads=config.heads,
        condition_depth=max(1, config.depth // 2),
        depth=config.depth,
        latent_size=(config.side, config.side),
        attention=attention,
        gradient_checkpointing=True,
    )
    with torch.device(config.device):
        model = LINA(settings)
    optimizer = torch.optim.AdamW(model.parameters())
    latents = torch.randn(1, settings.latent_channels, config.side, config.side, device=config.device)
    label, generator = torch.zeros(1, dtype=torch.long, device=config.device), torch.Generator().manual_seed(0)

    def step() -> None:
        with torch.autocast(config.device, torch.bfloat16):
            loss = model.loss(latents, label=label, generator=generator)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    def image() -> None:
        with torch.no_grad(), torch.autocast(config.device, torch.bfloat16):
            model.generate(label=label, steps=config.steps, guidance=3.0, generator=generator)

    few = replace(config, rounds=min(3, config.rounds))
    return {
        "training step": median_seconds(step, few, warm=1),
        "image": median_seconds(image, replace(few, rounds=1), warm=0),
    }


def figure(found: pd.DataFrame, path: Path) -> None:
    """Time of a forward and a backward pass against tokens, a panel for each precision, with the crossing point."""
    found = found[found["pass"] == "forward + backward"]
    drawn, panels = plt.subplots(1, len(DTYPES), figsize=(3.2 * len(DTYPES), 2.9), squeeze=False)
    for axes, name in zip(panels[0], DTYPES, strict=True):
        wide = found[found["dtype"] == name].pivot(index="tokens", columns="form", values="median_ms")
        wide.plot(ax=axes, loglog=True, title=name, ylabel="time, ms", marker=".", legend=name == "float32")
        if (point := crossing(wide.index, wide["softmax"], wide["kernels"])) is not None:
            axes.plot(*point, "o", markersize=9, markerfacecolor="none", markeredgecolor="0.3")
            axes.annotate(f"{point[0]:,.0f} tokens", point, xytext=(8, -12), textcoords="offset points")
    drawn.tight_layout()
    drawn.savefig(path)
    plt.close(drawn)


@kernels(True)
def run(config: GpuBenchConfig) -> int:
    """Compare, measure, and write three tables and a figure; returns 1 where numbers differ from float64, else 0.

    Raises:
        OSError: the folder cannot be created.
    """
    folder, ending = Path(config.out), f"{device_name(config.device)}-torch{torch.__version__.split('+')[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    compared = parity(config)
    taken = takes_attention(
        torch.empty(3, 1, config.heads, 1, config.width // config.heads, device=config.device), "relu"
    )
    print("kernels compute attention" if taken else "there are no kernels here: all linear forms are eager", flush=True)
    compared.to_csv(folder / f"gpu-parity-{ending}.csv", index=False)
    print(compared.groupby("dtype")["error"].max().to_string())
    if not compared["holds"].all():
        print(compared[~compared["holds"]].to_string())
        return 1
    found = table(config)
    found.to_csv(folder / f"gpu-attention-{ending}.csv", index=False)
    figure(found, folder / f"gpu-attention-{ending}.png")
    whole(config).to_csv(folder / f"gpu-whole-{ending}.csv", index=False)
    print(folder / f"gpu-attention-{ending}.csv")
    return 0


COMMAND = Command(config=GpuBenchConfig, run=run, doc=__doc__, errors=(OSError,))

if __name__ == "__main__":
    sys.exit(COMMAND.main(sys.argv[1:]))
