"""The flow head's residual branch, `x + gate LN(MLP(LN0(x) (1 + scale) + shift))`, where LN0 has no parameters.

On a CPU in eager mode forward and backward pass are written out (`_Branch`). They go over some rows at a time, whose
numbers stay in the processor's cache, and overwrite what is not read again. Elsewhere, under autocast and for axes that
broadcast, the same formula is left to autograd or the compiler.

Shapes: any leading axes; n rows, F width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lina_lab.model.layers import ADALN_EPS, TwoLayer, modulate

CACHED = 2**17
"""Numbers of a tensor that is worked on at once: about ten such tensors are in use together."""


def modulated_branch(x: Tensor, active: Tensor, modulation: nn.Linear, mlp: TwoLayer, norm: nn.LayerNorm) -> Tensor:
    """The branch's result, [..., F].

    Args:
        x: [..., F].
        active: SiLU of the condition, [..., F]; its axes broadcast with those of x.
        modulation: makes scale, shift and gate of it.
        mlp: of the branch.
        norm: at its end.
    """
    if _written_out(x, active, modulation.weight):
        layers = (modulation, mlp.fc1, mlp.fc2, norm)
        weights = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
        if torch.is_grad_enabled():
            result: Tensor = _Branch.apply(x, active, norm.eps, *weights)
            return result
        return _forward(x, active, norm.eps, weights)
    scale, shift, gate = modulation(active).chunk(3, dim=-1)
    branch = mlp(modulate(F.layer_norm(x, x.shape[-1:], eps=ADALN_EPS), scale, shift))
    return torch.addcmul(x, gate, norm(branch))


def _written_out(x: Tensor, active: Tensor, weight: Tensor) -> bool:
    on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")
    return on_cpu and x.shape == active.shape and x.dtype == active.dtype == weight.dtype


def _rows(x: Tensor) -> tuple[Tensor, int]:
    """The rows [n, F] of a tensor, and how many of them are worked on at once."""
    return x.reshape(-1, x.shape[-1]), max(1, CACHED // x.shape[-1])


def _forward(
    x: Tensor, active: Tensor, eps: float, weights: list[Tensor], kept: list[tuple[Tensor, ...]] | None = None
) -> Tensor:
    """The branch's result. What the backward pass reads of each group of rows is added to `kept`."""
    modulation, modulation_bias, fc1, bias1, fc2, bias2, norm, norm_bias = weights
    (rows, at_once), (conditions, _) = _rows(x), _rows(active)
    width, result = rows.shape[-1:], torch.empty_like(rows)
    for own, condition, out in zip(*(torch.split(t, at_once) for t in (rows, conditions, result)), strict=True):
        modulations = torch.addmm(modulation_bias, condition, modulation.mT)
        scale, shift, gate = modulations.chunk(3, dim=1)
        normed, *stats1 = torch.native_layer_norm(own, width, None, None, ADALN_EPS)
        moved = torch.addcmul(shift, normed, scale.add_(1))
        hidden = torch.addmm(bias1, moved, fc1.mT)
        activated = F.silu(hidden, inplace=kept is None)
        branch = torch.addmm(bias2, activated, fc2.mT)
        ended, *stats2 = torch.native_layer_norm(branch, width, norm, norm_bias, eps)
        torch.addcmul(own, gate, ended, out=out)
        if kept is not None:
            numbers = own, condition, modulations, normed, moved, hidden, activated, branch, ended
            kept.append((*numbers, *stats1, *stats2))
    return result.view(x.shape)


class _Branch(torch.autograd.Function):
    """`modulated_branch` with its backward pass written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, active: Tensor, eps: float, *weights: Tensor) -> Tensor:
        kept: list[tuple[Tensor, ...]] = []
        result = _forward(x, active, eps, list(weights), kept)
        ctx.groups = len(kept)
        ctx.save_for_backward(*weights, *(tensor for group in kept for tensor in group))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, saved = ctx.saved_tensors[:8], ctx.saved_tensors[8:]
        rows, at_once = _rows(grad)
        grad_x, grad_active = torch.empty_like(rows), torch.empty_like(rows)
        grads = [torch.zeros_like(weight) for weight in weights]
        each = len(saved) // max(1, ctx.groups)
        for group, own in enumerate(torch.split(rows, at_once) if ctx.groups else ()):
            part = slice(group * at_once, group * at_once + len(own))
            kept = saved[group * each : (group + 1) * each]
            _pull(own, kept, weights, grads, grad_x[part], grad_active[part])
        return grad_x.view(grad.shape), grad_active.view(grad.shape), None, *grads


def _pull(
    grad: Tensor,
    kept: tuple[Tensor, ...],
    weights: tuple[Tensor, ...],
    grads: list[Tensor],
    grad_x: Tensor,
    grad_active: Tensor,
) -> None:
    """For some rows, put the gradients of x and of the condition into their places, and add to those of the weights."""
    modulation, _, fc1, _, fc2, _, norm, norm_bias = weights
    x, condition, modulations, normed, moved, hidden, activated, branch, ended, *stats = kept
    scale, _, gate = modulations.chunk(3, dim=1)
    grad_modulations = torch.empty_like(modulations)
    grad_scale, grad_shift, grad_gate = grad_modulations.chunk(3, dim=1)
    torch.mul(grad, ended, out=grad_gate)
    grad_branch, *of_norm = torch.ops.aten.native_layer_norm_backward(
        grad * gate, branch, x.shape[-1:], *stats[2:], norm, norm_bias, [True, True, True]
    )
    grads[6] += of_norm[0]
    grads[7] += of_norm[1]
    buffer = torch.mm(grad_branch, fc2)
    _add_layer(grads[4], grads[5], grad_branch, activated)
    torch.ops.aten.silu_backward.grad_input(buffer, hidden, grad_input=buffer)
    _add_layer(grads[2], grads[3], buffer, moved)
    torch.mm(buffer, fc1, out=grad_branch)
    grad_shift.copy_(grad_branch)
    torch.mul(grad_branch, normed, out=grad_scale)
    grad_normed = torch.mul(grad_branch, scale, out=buffer)
    of_x, *_ = torch.ops.aten.native_layer_norm_backward(
        grad_normed, x, x.shape[-1:], *stats[:2], None, None, [True, False, False]
    )
    torch.add(of_x, grad, out=grad_x)
    _add_layer(grads[0], grads[1], grad_modulations, condition)
    torch.mm(grad_modulations, modulation, out=grad_active)


def _add_layer(weight: Tensor, bias: Tensor, grad: Tensor, inputs: Tensor) -> None:
    """Add a linear layer's gradients: of its weight and its bias, from that of its outputs and its inputs."""
    torch.addmm(weight, grad.mT, inputs, out=weight)
    bias += grad.sum(0)
