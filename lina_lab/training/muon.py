"""Muon for the matrices of the blocks and AdamW for all other parameters, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer

from lina_lab.config import OptimizerConfig
from lina_lab.config.optimizers import OPTIMIZERS

MATRICES = "matrices"
"""Key of a group: whether Muon steps it."""


class MuonAdamW(Optimizer):
    """torch's Muon and its fused AdamW, each for its own groups.

    Groups and state are those of this optimizer: schedules, checkpoints by parameter names and Lightning see one. The
    updates of Muon have the root mean square of AdamW's (`match_rms_adamw`, arXiv 2502.16982), so that both take one
    learning rate and weight decay.

    It needs whole matrices: on sharded ones the bfloat16 iteration of torch 2.14 rounds its partial sums, and an update
    differs by 1 to 5% from that of one process.

    Args:
        groups: dicts with `params`, `weight_decay` and `matrices`.
        lr: learning rate of all groups.
        betas: AdamW's.
        momentum: Muon's.
        ns_steps: steps of Muon's Newton-Schulz iteration.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        momentum: float,
        ns_steps: int,
    ) -> None:
        listed = list(groups)
        matrices, others = ([group for group in listed if group[MATRICES] is own] for own in (True, False))
        self._steppers: list[tuple[bool, Optimizer]] = []
        if matrices:
            muon = Muon(matrices, lr=lr, momentum=momentum, ns_steps=ns_steps, adjust_lr_fn="match_rms_adamw")
            self._steppers.append((True, muon))
        if others:
            self._steppers.append((False, AdamW(others, lr=lr, betas=betas, fused=True)))
        super().__init__([group for _, stepper in self._steppers for group in stepper.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for own, stepper in self._steppers:
            # Not once: loading a state replaces both.
            stepper.param_groups = [group for group in self.param_groups if group[MATRICES] is own]
            stepper.state = self.state
            stepper.step()
        return loss


def muon(groups: list[dict[str, Any]], config: OptimizerConfig) -> Optimizer:
    """Muon and AdamW for groups of parameters."""
    options = {**OPTIMIZERS["muon"].options, **config.options}
    return MuonAdamW(groups, lr=config.lr, betas=config.betas, **options)
