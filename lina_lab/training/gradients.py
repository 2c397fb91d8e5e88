"""The norm of a step's gradients, and its limit.

Not Lightning's `gradient_clip_val`: with bf16-mixed it refuses the fused AdamW, and it does not return the norm. The
functions of torch take sharded gradients too.
"""

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Euclidean norm of the gradients of all parameters, a scalar; where they are sharded, all ranks call this."""
    total = get_total_norm([p.grad for p in _parameters(optimizer) if p.grad is not None])
    return total.full_tensor() if isinstance(total, DTensor) else total


def clip_gradients(optimizer: Optimizer, most: float) -> Tensor:
    """Scale all gradients down if their norm is larger than `most`, and return the norm that they had."""
    norm = gradient_norm(optimizer)
    clip_grads_with_norm_(_parameters(optimizer), most, norm)
    return norm


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
