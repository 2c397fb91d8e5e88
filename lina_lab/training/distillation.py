"""Distillation: the frozen model that training started from is also its teacher.

Shapes: as in `model.lina`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from lina_lab.config import StartConfig
from lina_lab.config.teacher import teacher_misfit
from lina_lab.model import LINA, LossInputs
from lina_lab.model.lina import Prediction

FLOW, Z, VELOCITY = "train/flow", "train/distill_z", "train/distill_velocity"
"""The terms of the training loss in the curves, each without its weight."""


class Distillation:
    """The training loss with its terms for the teacher's z and velocity.

    It is no module: a module would put the teacher among its own parameters, and so into optimizer, average, gradients'
    reduction and checkpoints.

    Args:
        start: the terms' weights.
        teacher: the source; it is frozen.
        student: the model that learns.

    Raises:
        ValueError: the student cannot learn from this teacher.
    """

    def __init__(self, start: StartConfig, teacher: LINA, student: LINA) -> None:
        if (misfit := teacher_misfit(start, student.config, teacher.config)) is not None:
            raise ValueError(misfit)
        self.start = start
        self.teacher = teacher.eval().requires_grad_(False)

    def __deepcopy__(self, memo: object) -> "Distillation":
        """Itself: the averaged copy of the module learns from nobody, and needs no second teacher."""
        return self

    def loss(
        self, student: LINA, latents: Tensor, inputs: LossInputs, condition: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimize, and its terms by their names in the curves, detached and without their weights.

        Args:
            student: the model that learns.
            latents: [B, C, H, W].
            inputs: all that is random, for both models.
            condition: the arguments of the condition, see `LINA.condition`.
        """
        inputs = inputs.to(latents.device)
        own = student.predict(latents, inputs, **condition)
        with torch.no_grad():
            # Lightning moves what it knows of, and it does not know of the teacher.
            its = self.teacher.to(latents.device).predict(latents, inputs, **condition)
        total = own.flow_loss
        terms = {FLOW: total.detach()}
        for name, weight, distance in (
            (Z, self.start.distill_z, z_distance),
            (VELOCITY, self.start.distill_velocity, velocity_distance),
        ):
            if weight > 0:
                term = distance(own, its)
                total = total + weight * term
                terms[name] = term.detach()
        return total, terms


def z_distance(own: Prediction, its: Prediction) -> Tensor:
    """Squared distance of z from the teacher's, relative to the variance of the teacher's: a scalar.

    The variance is that of each token over its channels, so that the mean over tokens does not depend on how a batch is
    shared out. 0: equal; 1: no nearer than a z without contrast between its channels.
    """
    z, teacher_z = _wide(own.z), _wide(its.z)
    distance_BK = (z - teacher_z).square().mean(dim=-1)
    return (distance_BK / teacher_z.var(dim=-1, correction=0)).mean()


def velocity_distance(own: Prediction, its: Prediction) -> Tensor:
    """Squared distance of the velocity from the teacher's, mean over the same numbers as the flow loss: a scalar."""
    return (_wide(own.velocity) - _wide(its.velocity)).square().mean()


def _wide(values: Tensor) -> Tensor:
    """At least float32: under autocast, models compute in bfloat16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
