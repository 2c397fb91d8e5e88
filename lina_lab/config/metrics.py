"""Metrics of a trial by name: what a study's objectives may be, and what has each of them measured.

A package of somebody else's adds one by an entry point of the group `lina_lab.metrics`, see CONTRIBUTING.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lina_lab.records.runstore import EVALUATION
from lina_lab.util.registry import OpenRegistry, resolve

if TYPE_CHECKING:
    from lina_lab.config.trial import TrialConfig


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What the configuration knows of a metric."""

    name: str
    documentation: str
    """One line for the help."""
    direction: Literal["minimize", "maximize"] = "minimize"
    """Which way is better."""
    weights: Literal["raw", "averaged"] = "averaged"
    """The weights that it measures: of the last step, or averaged (EMA)."""
    switched_on: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `sampling` that have it measured, with the value that they need; None: any number but 0. Empty: it is
    measured in every trial, or where `sampling.metrics` names it."""
    of_task: str | None = None
    """For metrics that validation logs for some tasks: the name by which `Task.metrics` has it."""
    callback: Any = None
    """For metrics of other packages, which `sampling.metrics` switches on: a subclass of
    `lina_lab.training.callbacks.evaluation.Evaluation`, as "package.module:attribute" or the class."""

    def check(self) -> None:
        """Refuse an entry that is not complete.

        Raises:
            ValueError: what is missing.
        """
        if self.callback is not None and not self.name.startswith(EVALUATION):
            raise ValueError(f"metric {self.name} must have a name that starts with {EVALUATION}")
        if self.direction not in ("minimize", "maximize"):
            raise ValueError(f"metric {self.name} needs direction=minimize or maximize, not {self.direction}")

    def not_measured(self, trial: "TrialConfig") -> str | None:
        """The field that leaves it unmeasured, as `sampling.FIELD=VALUE`; None: a trial measures it."""
        sampling = trial.sampling
        if self.of_task is not None and self.of_task not in trial.model.kind.metrics:
            return f"model.task={trial.model.task}"
        if self.callback is not None and self.name not in sampling.metrics:
            return f"sampling.metrics={list(sampling.metrics)}"
        for name, needed in self.switched_on.items():
            value = getattr(sampling, name)
            if value != needed if needed else not value:
                return f"sampling.{name}={value}"
        return None

    def load(self) -> Any:
        """The callback's class."""
        return resolve(self.callback)


METRICS: OpenRegistry[Metric] = OpenRegistry("metric", "lina_lab.metrics", Metric)
for entry in (
    Metric(name="val/loss_ema", documentation="validation loss of the averaged (EMA) weights"),
    Metric(name="val/loss_raw", documentation="validation loss of the raw weights", weights="raw"),
    Metric(
        name="val/accuracy_ema",
        documentation="share of held-out images whose class the averaged (EMA) weights find, task=classification",
        direction="maximize",
        of_task="accuracy",
    ),
    Metric(
        name="val/accuracy_raw",
        documentation="share of held-out images whose class the raw weights find, task=classification",
        direction="maximize",
        weights="raw",
        of_task="accuracy",
    ),
    Metric(name="train/loss", documentation="training loss", weights="raw"),
    Metric(
        name=f"{EVALUATION}fid_pixels",
        documentation="Fréchet distance of the pixels of generated images",
        switched_on={"quality_features": "pixels", "quality_images": None},
    ),
    Metric(
        name=f"{EVALUATION}fid_inception",
        documentation="FID: Fréchet distance of the Inception features of generated images",
        switched_on={"quality_features": "inception", "quality_images": None},
    ),
    Metric(
        name=f"{EVALUATION}captions",
        documentation="share of generated images that are what their captions ask for, the mean of six tasks",
        direction="maximize",
        switched_on={"caption_images": None},
    ),
):
    METRICS.register(entry)
