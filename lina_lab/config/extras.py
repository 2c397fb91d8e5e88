"""Lightning callbacks and loggers by name: `trainer.callbacks` and `trainer.loggers`.

A package of somebody else's adds one by an entry point of the group `lina_lab.callbacks` or `lina_lab.loggers`, see
CONTRIBUTING.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lina_lab.util.registry import OpenRegistry, resolve

if TYPE_CHECKING:
    from lina_lab.config.trial import TrialConfig


@dataclass(frozen=True, kw_only=True)
class _Extra:
    """What the configuration knows of a part of Lightning's trainer."""

    name: str
    documentation: str
    """One line for the help."""
    maker: Any
    """Maps (TrialConfig, the trial's folder) to the part: "package.module:attribute", imported when training starts,
    or the function."""
    needs: tuple[str, ...] = ()
    """Modules of which one must be installed, the recommended package's first; none: nothing is missing."""

    def check(self) -> None:
        """Refuse an entry that is not complete.

        Raises:
            ValueError: what is missing.
        """
        if not (isinstance(self.maker, str) or callable(self.maker)):
            raise ValueError(f"{self.name} has no maker: an entry says what makes it")

    def load(self) -> Any:
        """The function that makes the part."""
        return resolve(self.maker)

    @property
    def missing(self) -> str | None:
        """The package to install, if none of the modules that it needs is there."""
        return None if not self.needs or any(map(find_spec, self.needs)) else self.needs[0]


@dataclass(frozen=True, kw_only=True)
class CallbackEntry(_Extra):
    """A `lightning.pytorch.callbacks.Callback`. It may change what a trial computes, and is part of its identity."""


@dataclass(frozen=True, kw_only=True)
class LoggerEntry(_Extra):
    """A `lightning.pytorch.loggers.Logger`. It must not change what a trial computes."""


CALLBACKS: OpenRegistry[CallbackEntry] = OpenRegistry("trainer.callbacks", "lina_lab.callbacks", CallbackEntry)
LOGGERS: OpenRegistry[LoggerEntry] = OpenRegistry("trainer.loggers", "lina_lab.loggers", LoggerEntry)
for entry in (
    LoggerEntry(
        name="tensorboard",
        documentation="event files for TensorBoard in the cell's folder",
        maker="lina_lab.training.extras:tensorboard",
        needs=("tensorboard", "tensorboardX"),
    ),
    LoggerEntry(
        name="wandb",
        documentation="Weights & Biases, offline unless WANDB_MODE or WANDB_API_KEY is set",
        maker="lina_lab.training.extras:wandb",
        needs=("wandb",),
    ),
):
    LOGGERS.register(entry)


def problems_of_names(field: str, names: Sequence[str], registry: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each name that is not an entry of the registry, or is given twice."""
    for name in names:
        if name not in registry:
            yield f"{field}: {name} is not one of {', '.join(registry) or 'an installed package (there are none)'}"
        if names.count(name) > 1:
            yield f"{field}: {list(names)} names {name} twice"


def missing_package(config: "TrialConfig") -> str | None:
    """Which package a trial's callbacks or loggers lack, as a sentence; None: nothing is missing."""
    trainer = config.trainer
    entries = [*(CALLBACKS[name] for name in trainer.callbacks), *(LOGGERS[name] for name in trainer.loggers)]
    for entry in entries:
        if (package := entry.missing) is not None:
            field = "callbacks" if isinstance(entry, CallbackEntry) else "loggers"
            return f"trainer.{field}: {entry.name} needs the package {package}: pip install {package}"
    if trainer.system_metrics_seconds is not None and find_spec("psutil") is None:
        return "trainer.system_metrics_seconds needs the package psutil: pip install psutil"
    return None
