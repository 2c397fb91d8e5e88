"""Compiles the kernels for a GPU that need not be there: `python -m tests.kernels.aot`.

Prints one line of JSON with the name of each kernel, the type of its first argument, its shared memory and the bytes
that its registers spill. The operators run as they do in training, but for the launch, which compiles.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

TARGET = ("cuda", 90, 32)


def compiled(cache: Path) -> list[tuple[str, str, int, int]]:
    """What a process without the interpreter compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.aot"]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return [tuple(row) for row in json.loads(printed)]


def main() -> None:
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lina_lab.kernels import attention, convolution

    ptxas = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    types = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}
    rows = []

    def launch(kernel: Any, grid: tuple[int, ...], *args: Any, warps: int, stages: int, **constants: Any) -> None:
        signature, aligned = {}, {}
        for place, (name, value) in enumerate(zip(kernel.arg_names, args, strict=False)):
            if isinstance(value, torch.Tensor):
                signature[name] = types[value.dtype]
            elif value == 1:
                constants[name] = value
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
                aligned[(place,)] = [["tt.divisibility", 16]]
        signature |= dict.fromkeys(constants, "constexpr")
        options = {"num_warps": warps, "num_stages": stages}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
        found = triton.compile(source, target=GPUTarget(*TARGET), options=options)
        said = subprocess.run(
            [ptxas, "-v", "--gpu-name=sm_90a", "/dev/stdin", "-o", "/dev/null"],
            input=found.asm["ptx"], check=True, capture_output=True, text=True,
        )  # fmt: skip
        spilled = sum(int(number) for number in re.findall(r"(\d+) bytes spill", said.stderr))
        rows.append([kernel.fn.__name__, signature[kernel.arg_names[0]], found.metadata.shared, spilled])

    attention.launch = convolution.launch = launch  # type: ignore[assignment]
    for dtype, channels, heads, tokens in ((torch.bfloat16, 96, 16, 5120), (torch.float32, 64, 12, 320)):
        qkv = torch.empty(1, tokens, 3, heads, channels, dtype=dtype).permute(2, 0, 3, 1, 4)
        weight, names = torch.empty(heads, tokens, 1), ("relu", "division")
        out, summary = attention.linear_attention(qkv, weight, weight, weight, *names)
        attention.backward(torch.empty_like(out), qkv, summary, weight, weight, weight, *names)
    x, base, kernel = torch.empty(1, 5120, 1536), torch.empty(1, 5120, 1536).bfloat16(), torch.empty(1536, 1, 5, 5)
    convolution.convolve(base, x, kernel, torch.empty(1536), 64, 64, 1024)
    convolution.backward(base, x, kernel, 64, 64, 1024)
    sys.stdout.write(json.dumps(rows))


if __name__ == "__main__":
    main()
