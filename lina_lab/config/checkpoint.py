"""When a trial writes checkpoints, which of them stay, and how they are written."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, OneOf, PositiveFloat, PositiveInt
from lina_lab.config.metrics import METRICS

if TYPE_CHECKING:
    from lina_lab.config.trial import TrialConfig


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class CheckpointConfig:
    """When checkpoints are written, and which of them stay. It decides no number, so it is not part of the config hash,
    and may change while a study goes on."""

    every_images: PositiveInt | None = None
    """Images seen between two checkpoints. If this or every_minutes is given, checkpoints are written then and not at
    each validation; there is always one at the end, and when the trial is asked to stop. null: no such interval."""
    every_minutes: PositiveFloat | None = None
    """Minutes between two checkpoints, by the first rank's clock; null: no such interval."""
    keep_last: PositiveInt = 2
    """The newest checkpoints that stay. One more than is needed, so that a damaged one does not cost everything."""
    keep_every_images: PositiveInt | None = None
    """Milestones: the first checkpoint at or after each multiple of so many images stays; null: none."""
    keep_best: Annotated[str, OneOf(METRICS)] | None = None
    """Metric by whose best value, of all validations, a checkpoint stays; null: none."""
    finished: Literal["all", "weights"] = "all"
    """What stays of a cell that is done. all: its checkpoints as they are; weights: of the newest one, of milestones
    and of the best one the raw and averaged (EMA) weights alone, without the optimizer's state."""
    asynchronous: bool = False
    """Whether training goes on while a checkpoint is written: the state is copied to host memory, and a thread writes
    it."""
    distributed: bool = False
    """Whether each rank writes its own shards, where weights are sharded (study.resources.strategy=fsdp); otherwise
    they are gathered on the first rank, whose host memory must hold them."""

    @property
    def timed(self) -> bool:
        """Whether checkpoints have an interval of their own."""
        return self.every_images is not None or self.every_minutes is not None

    def kept(self, steps: Collection[int], batch_size: int, best: int | None = None, *, done: bool = False) -> set[int]:
        """The steps whose checkpoints stay.

        Args:
            steps: optimizer steps of the checkpoints that are there.
            batch_size: images of a step.
            best: the step of the best validation; None: it is not known.
            done: the cell is done, and keeps what `finished` says.
        """
        ordered = sorted(steps)
        last = 1 if done and self.finished == "weights" else self.keep_last
        found = set(ordered[-last:])
        if self.keep_best is not None and best in ordered:
            found.add(best)
        if self.keep_every_images is not None:
            # The earliest of an interval is kept whenever this is asked, so that no later one takes its place.
            milestones: dict[int, int] = {}
            for step in ordered:
                milestones.setdefault(step * batch_size // self.keep_every_images, step)
            found |= {step for interval, step in milestones.items() if interval > 0}
        return found

    def problem(self, trial: "TrialConfig") -> str | None:
        """Why a trial cannot keep its checkpoints so, as a sentence; None: it can."""
        if self.keep_best is not None and (field := METRICS[self.keep_best].not_measured(trial)) is not None:
            return f"checkpoint.keep_best={self.keep_best} is a metric that {field} does not measure"
        return None

    def most_kept(self, trial: "TrialConfig", *, done: bool = False) -> int:
        """The most checkpoints that a cell keeps; with `done` after it has ended."""
        kept = 1 if done and self.finished == "weights" else self.keep_last
        kept += self.keep_best is not None
        if self.keep_every_images is not None:
            kept += trial.images_seen // self.keep_every_images
        if self.every_minutes is not None:
            return kept
        every = self.every_images
        written = trial.epochs if every is None else trial.images_seen // every + 1 + (self.keep_best is not None)
        return min(kept, written)
