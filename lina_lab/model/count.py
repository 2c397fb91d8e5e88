"""Parameters and operations of a model by component, from its configuration alone (`lina count`).

A multiply-add counts as one operation, as in the published figures; `FLOPS_PER_MULTIPLY_ADD` converts it to FLOPs.
Counted are linear layers, matrix products and convolutions. Softmax, norms, activations, gates' products and biases
count as nothing. What a variant costs is in its entry (`lina_lab.variants`), and how a task's model is put together is
in the task's (`Task.costs`). `6 N D` does not hold for LINA: the encoder sees visible tokens only, the flow head runs
several times for each masked token, and a gate has parameters but hardly any operations.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from lina_lab.config import LinaConfig, TrialConfig
from lina_lab.model.count_parts import MLP_RATIO, Costs, Counts, Kept, attention_operations, attention_parameters

__all__ = ["MLP_RATIO", "Counts", "attention_operations", "attention_parameters"]
FLOPS_PER_MULTIPLY_ADD = 2


def _costs(config: LinaConfig) -> Costs:
    costs: Costs = config.kind.load_costs()
    return costs


def parameters(config: LinaConfig) -> Counts:
    """Parameters by component, the frozen ones included."""
    return _costs(config).parameters(config)


def embedding_parameters(config: LinaConfig) -> int:
    """Parameters that are looked up, not multiplied with: the table of classes or of absent text, start and mask token.

    They grow with the data's vocabulary, so scaling exponents are reported with and without them (arXiv 2406.12907).
    """
    return _costs(config).embedding_parameters(config)


def loss_operations(config: LinaConfig, mask_ratio: float | None = None) -> Counts:
    """Multiply-adds of the loss of one image, forward.

    Args:
        config: the model.
        mask_ratio: share of the tokens that LINA masks; None: the mean of the training distribution.
    """
    return _costs(config).loss_operations(config, mask_ratio)


def training_operations(config: LinaConfig, mask_ratio: float | None = None) -> Counts:
    """Multiply-adds of a training step for one image, forward and backward.

    Inputs have no gradient: latents, noise, timesteps and texts.

    Args:
        config: the model.
        mask_ratio: share of the tokens that LINA masks; None: the mean of the training distribution.
    """
    return _costs(config).training_operations(config, mask_ratio)


@lru_cache(maxsize=4096)
def flops_per_image(model: LinaConfig, teacher: LinaConfig | None = None) -> int:
    """FLOPs of training on one image, two for a multiply-add.

    Args:
        model: what is trained.
        teacher: the frozen model that it is distilled from, whose forward pass counts; None: there is none.
    """
    operations = training_operations(model).total
    if teacher is not None:
        # It is shown the student's noised tokens.
        operations += loss_operations(replace(teacher, noise_samples_per_token=model.noise_samples_per_token)).total
    return FLOPS_PER_MULTIPLY_ADD * operations


def training_flops(trial: TrialConfig, source: TrialConfig | None = None) -> float:
    """FLOPs of a trial's training, without that of what it starts from.

    Args:
        trial: the trial.
        source: the trial that it starts from; None: it is not known. A teacher then counts as if it were like the
            student, and with start.state=training the source's images count as the trial's own.
    """
    teacher = None if not trial.start.distills else trial.model if source is None else source.model
    before = source.images_seen if source is not None and trial.start.state == "training" else 0
    return float(flops_per_image(trial.model, teacher)) * max(trial.images_seen - before, 0)


def flops_with_sources(trial: TrialConfig, trials: Mapping[str, TrialConfig]) -> float | None:
    """FLOPs of a trial's training and of that of all that it started from; None: a source is not among the trials.

    Args:
        trial: the trial.
        trials: config hash -> trial, for the cells of its study.
    """
    total = 0.0
    while trial.start.given:
        source = trials.get(trial.start.cell or "")
        if source is None:
            return None
        total += training_flops(trial, source)
        trial = source
    return total + training_flops(trial)


def kept(config: LinaConfig) -> Kept:
    """What a step keeps of one image for its backward pass."""
    return _costs(config).kept(config)


def generation_operations(
    config: LinaConfig, *, steps: int = 64, flow_steps: int = 25, guided: bool = False, solver: str = "euler"
) -> Counts:
    """Multiply-adds of one generated image; 0 for a task that generates none.

    Args:
        config: the model.
        steps: autoregressive steps K, of LINA alone.
        flow_steps: steps of the flow's ODE, for LINA in each autoregressive step.
        guided: whether there is an unconditional pass too, for classifier-free guidance.
        solver: of the ODE, see `flow.integrate`.
    """
    count = _costs(config).generation_operations
    if count is None:
        return Counts(condition=0, encoder=0, decoder=0, head=0)
    return count(config, steps=steps, flow_steps=flow_steps, guided=guided, solver=solver)
