"""The moving averages of the weights."""

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, FROM_LIST, Checked, Decay, PositiveInt

WIDEST = 0.28
"""Relative widths are below this (`util.power_ema`)."""
SNAPSHOTS, MOST_SNAPSHOTS = 16, 256
"""Snapshots over the budget where `snapshot_every_images` is null, and the most that a trial may have."""
AT_LENGTH = re.compile(r"(?P<metric>.+)_ema_(?P<length>0\.\d{3})")
"""Name of a metric that was measured at a length."""

Widths = Annotated[tuple[float, ...], FROM_LIST]


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class EmaConfig(Checked):
    """Moving averages of the weights: an exponential one, and on request others by a power function of the step."""

    decay: Decay = 0.99
    """Decay rate of the exponential average at each update."""
    every_n_steps: PositiveInt = 100
    """Optimizer steps between two updates of the exponential average."""
    profiles: Widths = ()
    """Relative widths of averages by a power function, such as [0.05, 0.1], that are kept besides and updated at each
    step. From two or more of them, averages of other lengths can be rebuilt when training has ended."""
    snapshot_every_images: PositiveInt | None = None
    """Images seen between two snapshots of these averages, rounded up to whole steps; there is always one at the end.
    Null: a sixteenth of the budget."""
    lengths: Widths = ()
    """Lengths (relative widths) at which the validation loss, and with sampling.quality_images the Fréchet distance,
    are measured at the end."""

    def _problems(self) -> Iterator[str]:
        for name, widths in (("profiles", self.profiles), ("lengths", self.lengths)):
            outside = [width for width in widths if not 0 < width < WIDEST]
            if outside:
                yield f"{name}: {outside[0]:g} is not a relative width between 0 and {WIDEST}"
            shown = [f"{width:.3f}" for width in widths]
            twice = [width for width in shown if shown.count(width) > 1]
            if twice:
                yield f"{name}: {list(widths)} names {twice[0]} twice, to three decimals"
        if self.lengths and len(self.profiles) < 2:
            yield "lengths are rebuilt from two profiles or more: give ema.profiles=[0.05,0.1]"
        if self.snapshot_every_images is not None and not self.profiles:
            yield "snapshot_every_images is for snapshots of profiles: give ema.profiles=[0.05,0.1]"


def snapshot_steps(ema: EmaConfig, *, batch_size: int, max_steps: int) -> tuple[int, ...]:
    """The optimizer steps after which the averages are written to files; none without profiles.

    Args:
        ema: how often.
        batch_size: images of a step.
        max_steps: steps of the budget.
    """
    if not ema.profiles:
        return ()
    every = -(-(ema.snapshot_every_images or max_steps * batch_size / SNAPSHOTS) // batch_size)
    return (*range(int(every), max_steps, int(every)), max_steps)


def problem_of_snapshots(ema: EmaConfig, steps: tuple[int, ...]) -> str | None:
    """A sentence on too many snapshots, or on the first of `ema.lengths` that they do not allow; None: all is well.

    Args:
        ema: profiles and lengths.
        steps: see `snapshot_steps`.
    """
    if len(steps) > MOST_SNAPSHOTS:
        return (
            f"ema.snapshot_every_images={ema.snapshot_every_images} makes {len(steps):,} snapshots: a trial has "
            f"{MOST_SNAPSHOTS} at most"
        )
    if not ema.lengths:
        return None
    # Only here: NumPy takes a command longer to load than all else that the configuration needs.
    from lina_lab.util.power_ema import Profile, refusal

    known = tuple(Profile(width, step) for step in steps for width in ema.profiles)
    for length in ema.lengths:
        if (end := refusal(known, Profile(length, steps[-1]))) is not None:
            return f"ema.lengths: {length:g} {end}; give a profile closer to it, or snapshots more often"
    return None


def at_length(metric: str, length: float) -> str:
    """The name of a metric that was measured at a length: `val/loss` -> `val/loss_ema_0.100`."""
    return f"{metric}_ema_{length:.3f}"


def length_of(name: str) -> tuple[str, float] | None:
    """The metric and the length of a name that `at_length` made; None for other names."""
    found = AT_LENGTH.fullmatch(name)
    return None if found is None else (found["metric"], float(found["length"]))
