"""Models of the tasks once more, in float64 and from their formulas alone: nothing here is imported from the model.

Weights are a state dict, P. Shapes: B batch, N tokens, D width, H heads, E channels of a head.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lina_lab.config import AttentionConfig, LinaConfig

Weights = dict[str, Tensor]


def affine(P: Weights, name: str, x: Tensor) -> Tensor:
    return x @ P[f"{name}.weight"].T + P[f"{name}.bias"]


def normed(x: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    y = (x - mean) / (variance + eps).sqrt()
    return y if weight is None or bias is None else y * weight + bias


def layer_norm(P: Weights, name: str, x: Tensor) -> Tensor:
    return normed(x, 1e-5, P[f"{name}.weight"], P[f"{name}.bias"])


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def two_layer(P: Weights, name: str, x: Tensor) -> Tensor:
    return affine(P, f"{name}.fc2", silu(affine(P, f"{name}.fc1", x)))


def patches(images: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] to [B, N, p p C], one patch after the other."""
    height, width = images.shape[-2:]
    return torch.stack(
        [
            images[:, :, row : row + patch, column : column + patch].movedim(1, -1).flatten(1)
            for row in range(0, height, patch)
            for column in range(0, width, patch)
        ],
        dim=1,
    )


def code(grid: tuple[int, int], dim: int) -> Tensor:
    """Sines and cosines of column and row, [N, D]; stored in float32."""
    rows = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            angles = [[at * 10_000 ** (-i / (dim // 4)) for i in range(dim // 4)] for at in (column, row)]
            rows.append([f(angle) for axis in angles for f in (math.sin, math.cos) for angle in axis])
    return torch.tensor(rows, dtype=torch.float32).double()


def attention(P: Weights, name: str, x: Tensor, config: AttentionConfig, model: LinaConfig) -> Tensor:
    """By N x N weights, each of the variants that the tests take."""
    batch, tokens, dim = x.shape
    heads = model.num_heads
    q, k, v = affine(P, f"{name}.qkv", x).reshape(batch, tokens, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    if config.kind == "softmax":
        o = (q @ k.mT / (dim // heads) ** 0.5).softmax(-1) @ v
    else:
        q, k = q.clamp(min=0), k.clamp(min=0)
        if config.normalization == "division":
            q, k = q + 1e-6, k + 1e-6
        if config.gate == "kv":
            k, v = k * P[f"{name}.gate.key_scale"], v * P[f"{name}.gate.value_scale"]
        scores = q @ k.mT / tokens
        if config.normalization == "division":
            weights = scores / (scores.sum(-1, keepdim=True) + 1e-6)
        else:
            scores = scores / (dim // heads) ** 0.5
            weights = scores + (1 - scores.sum(-1, keepdim=True)) / tokens
        o = weights @ v
    o = o.transpose(1, 2).reshape(batch, tokens, dim)
    if config.conv == "depthwise":
        image = x.mT.reshape(batch, dim, *model.grid)
        taps, bias = P[f"{name}.conv.conv.weight"], P[f"{name}.conv.conv.bias"]
        (rows, columns), reach = model.grid, config.conv_kernel // 2
        padded = F.pad(image, (reach, reach, reach, reach))
        near = torch.stack(
            [
                padded[..., row : row + rows, column : column + columns] * taps[:, :, row, column, None]
                for row in range(config.conv_kernel)
                for column in range(config.conv_kernel)
            ]
        ).sum(0)
        o = o + (near + bias[:, None, None]).flatten(2).mT
    return affine(P, f"{name}.proj", o)


def mlp(P: Weights, name: str, x: Tensor) -> Tensor:
    return affine(P, f"{name}.fc2", gelu(affine(P, f"{name}.fc1", x)))


def block(P: Weights, name: str, x: Tensor, config: AttentionConfig, model: LinaConfig) -> Tensor:
    if model.norm_placement == "before":
        x = x + attention(P, f"{name}.attn", layer_norm(P, f"{name}.norm1", x), config, model)
        return x + mlp(P, f"{name}.mlp", layer_norm(P, f"{name}.norm2", x))
    x = x + layer_norm(P, f"{name}.norm1", attention(P, f"{name}.attn", x, config, model))
    return x + layer_norm(P, f"{name}.norm2", mlp(P, f"{name}.mlp", x))


def adaln_block(
    P: Weights, name: str, x: Tensor, condition: Tensor, config: AttentionConfig, model: LinaConfig
) -> Tensor:
    parts = affine(P, f"{name}.modulation.proj", silu(condition)).unsqueeze(1)
    scale1, shift1, gate1, scale2, shift2, gate2 = parts.split(model.dim, dim=-1)
    if model.norm_placement == "before":
        y = normed(x, 1e-6) * (1 + scale1) + shift1
        x = x + gate1 * attention(P, f"{name}.attn", y, config, model)
        return x + gate2 * mlp(P, f"{name}.mlp", normed(x, 1e-6) * (1 + scale2) + shift2)
    y = attention(P, f"{name}.attn", x * (1 + scale1) + shift1, config, model)
    x = x + gate1 * layer_norm(P, f"{name}.norm1", y)
    y = mlp(P, f"{name}.mlp", x * (1 + scale2) + shift2)
    return x + gate2 * layer_norm(P, f"{name}.norm2", y)


def tokens(P: Weights, x: Tensor, model: LinaConfig) -> Tensor:
    return affine(P, "embed", x) + code(model.grid, model.dim)


def logits(P: Weights, images: Tensor, model: LinaConfig) -> Tensor:
    x = tokens(P, patches(images, model.patch_size), model)
    for i, config in enumerate(model.decoder_blocks):
        x = block(P, f"blocks.{i}", x, config, model)
    return affine(P, "head", layer_norm(P, "norm", x).mean(1))


def sinusoid(timestep: Tensor) -> Tensor:
    frequency = torch.tensor([10_000 ** (-i / 128) for i in range(128)], dtype=torch.float64)
    angle = timestep[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def pooled(P: Weights, text: Tensor, present: Tensor) -> Tensor:
    """Text by text, state by state."""
    found = []
    for states, there in zip(text, present, strict=True):
        if there.any():
            mean = torch.stack([two_layer(P, "text.mlp", state) for state in states[there]]).mean(0)
            found.append(layer_norm(P, "text.norm", mean))
        else:
            found.append(P["text.none"])
    return torch.stack(found)


def velocity(P: Weights, noised: Tensor, timestep: Tensor, given: Tensor, model: LinaConfig) -> Tensor:
    condition = two_layer(P, "time_mlp", sinusoid(timestep)) + given
    x = tokens(P, noised, model)
    for i, config in enumerate(model.decoder_blocks):
        x = adaln_block(P, f"blocks.{i}", x, condition, config, model)
    scale, shift = affine(P, "modulation.proj", silu(condition)).unsqueeze(1).split(model.dim, dim=-1)
    return affine(P, "out", normed(x, 1e-6) * (1 + scale) + shift)


def diffusion_loss(
    P: Weights, images: Tensor, sigma: Tensor, noise: Tensor, given: Tensor, model: LinaConfig
) -> Tensor:
    x = patches(images, model.patch_size)
    level = sigma[:, None, None]
    error = velocity(P, level * noise + (1 - level) * x, 1000 * sigma, given, model) - (noise - x)
    return error.square().mean()
