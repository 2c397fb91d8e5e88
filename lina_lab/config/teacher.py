"""What the teacher of a distillation must have in common with the model that learns from it."""

from lina_lab.config.model import LinaConfig
from lina_lab.config.start import StartConfig

SAME = ("task", "latent_channels", "latent_size", "patch_size", "num_classes", "text_dim", "text_length")
"""Fields of the model that decide what it is shown: teacher and student see the same tokens, masks and conditions."""


def teacher_misfit(start: StartConfig, model: LinaConfig, teacher: LinaConfig) -> str | None:
    """Why a model cannot learn from a teacher, as a sentence; None: it can, or it does not distill."""
    if not start.distills:
        return None
    for name in SAME:
        own, other = getattr(model, name), getattr(teacher, name)
        if own != other:
            return f"distillation needs a source that sees the same: its {name} is {_shown(other)}, not {_shown(own)}"
    if start.distill_z > 0 and model.dim != teacher.dim:
        return (
            f"start.distill_z compares z, which has dim={model.dim} here and dim={teacher.dim} in the source: "
            "start.distill_velocity alone takes any width"
        )
    return None


def _shown(value: object) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, tuple) else value)
