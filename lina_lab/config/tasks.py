"""Tasks by name: `model.task`, what the one backbone is trained to do.

A package of somebody else's adds one by an entry point of the group `lina_lab.tasks`, see CONTRIBUTING.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lina_lab.util.registry import OpenRegistry, resolve

if TYPE_CHECKING:
    from lina_lab.config.model import LinaConfig
    from lina_lab.config.trial import TrialConfig


def _fits(config: Any) -> None:
    """Anything does."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the configuration knows of a task. Code is named as "package.module:attribute" and imported when needed."""

    name: str
    documentation: str
    """One line for the help."""
    model: Any
    """Maps a LinaConfig to the model: an `nn.Module` with `config` and `loss_from_inputs(latents, inputs, **condition)`
    -> scalar; with `generate` as `LINA` has it, if the task generates images."""
    inputs: Any
    """What is random in a loss: a subclass of `lina_lab.model.inputs.Inputs`."""
    module: Any
    """Maps (TrialConfig, Start or None) to the LightningModule that trains the model: `LinaModule` or a subclass."""
    costs: Any
    """A `lina_lab.model.count_parts.Costs`: parameters and operations. Its module imports no torch."""
    condition_tokens: bool = False
    """Whether the model has LINA's three stacks, and M condition tokens in front of the image tokens. Otherwise all
    `depth` blocks are one stack over the N image tokens."""
    generates: bool = False
    """Whether the model generates images."""
    augments: bool = False
    """Whether its inputs take the options `flip` and `shift`, by which training images are changed."""
    metrics: tuple[str, ...] = ()
    """What validation logs besides the loss: methods of the model that map a batch to a scalar, as "accuracy" for
    val/accuracy_ema and val/accuracy_raw."""
    misfit: Callable[["LinaConfig"], str | None] = _fits
    """Why a model cannot be built for it, as a sentence; None: it can."""
    problem: Callable[["TrialConfig"], str | None] = _fits
    """Why a trial cannot train it, as a sentence: data that it needs, fields that it cannot have; None: it can."""

    def check(self) -> None:
        """Refuse an entry that is not complete.

        Raises:
            ValueError: what is missing.
        """
        parts = ("model", "inputs", "module", "costs")
        missing = [part for part in parts if getattr(self, part) in (None, "")]
        if missing:
            raise ValueError(f"model.task={self.name} has no {' and no '.join(missing)}")

    @property
    def module_name(self) -> str:
        """The LightningModule as "package.module:attribute", also where the entry holds the class itself."""
        own = self.module
        return own if isinstance(own, str) else f"{own.__module__}:{getattr(own, '__qualname__', own)}"

    def load_model(self) -> Any:
        """The model's class."""
        return resolve(self.model)

    def load_inputs(self) -> Any:
        """The class of the inputs."""
        return resolve(self.inputs)

    def load_module(self) -> Any:
        """The LightningModule's class."""
        return resolve(self.module)

    def load_costs(self) -> Any:
        """Parameters and operations."""
        return resolve(self.costs)


MODULE = "lina_lab.training.module:LinaModule"
"""The module of the built-in tasks, which strategy=fsdp can shard."""
TASKS: OpenRegistry[Task] = OpenRegistry("model.task", "lina_lab.tasks", Task)
ONE_STACK = ("encoder_attention", "condition_attention")
"""Fields of the model that a task without condition tokens cannot have."""


def _one_stack(model: "LinaConfig") -> str | None:
    given = next((field for field in ONE_STACK if getattr(model, field) is not None), None)
    return None if given is None else f"{given} must be null: task={model.task} has one stack of blocks"


def _needs_classes(model: "LinaConfig") -> str | None:
    return "task=classification needs num_classes" if model.num_classes is None else _one_stack(model)


def _steps(trial: "TrialConfig") -> str | None:
    steps, tokens = trial.sampling.ar_steps, trial.model.num_tokens
    return f"sampling.ar_steps={steps} is more than an image's {tokens} tokens" if steps > tokens else None


def _not_distilled(trial: "TrialConfig") -> str | None:
    if trial.start.distills:
        return f"model.task={trial.model.task} cannot be distilled: what is compared are LINA's vectors and velocities"
    return None


def _no_images(trial: "TrialConfig") -> str | None:
    measured = next((f for f in ("quality_images", "caption_images") if getattr(trial.sampling, f)), None)
    if measured is not None:
        return f"sampling.{measured} must be 0: model.task={trial.model.task} generates no images"
    return _not_distilled(trial)


for entry in (
    Task(
        name="generation",
        documentation="masked autoregressive generation with a flow head for each token: LINA",
        model="lina_lab.model.lina:LINA",
        inputs="lina_lab.model.inputs:LossInputs",
        module=MODULE,
        costs="lina_lab.model.count_lina:COSTS",
        condition_tokens=True,
        generates=True,
        problem=_steps,
    ),
    Task(
        name="classification",
        documentation="classification of images from the mean of all tokens",
        model="lina_lab.model.classifier:Classifier",
        inputs="lina_lab.model.classifier:ClassifierInputs",
        module=MODULE,
        costs="lina_lab.model.count_tasks:CLASSIFICATION",
        augments=True,
        metrics=("accuracy",),
        misfit=_needs_classes,
        problem=_no_images,
    ),
    Task(
        name="diffusion",
        documentation="velocity of all tokens noised alike, with AdaLN-zero blocks (DiT, SiT)",
        model="lina_lab.model.diffusion:DiffusionModel",
        inputs="lina_lab.model.diffusion:DiffusionInputs",
        module=MODULE,
        costs="lina_lab.model.count_tasks:DIFFUSION",
        generates=True,
        misfit=_one_stack,
        problem=_not_distilled,
    ),
):
    TASKS.register(entry)
