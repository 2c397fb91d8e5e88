"""In what a trial may differ from the one whose training it goes on with."""

from lina_lab.config.checks import to_dict
from lina_lab.config.history import NEVER, PLACES
from lina_lab.config.trial import TrialConfig
from lina_lab.util.nested import flatten

MAY_CHANGE = (
    *PLACES,
    *NEVER,
    "trainer.max_images",
    "trainer.val_every_images",
    "trainer.log_every_n_steps",
    "optimizer.schedule",
    "optimizer.cooldown",
    "optimizer.final_rate",
    "ema.lengths",
    "ema.snapshot_every_images",
)
"""Fields that decide how far a training goes and what is measured of it, but for the sections below."""
MAY_CHANGE_SECTIONS = ("sampling.", "start.")


def differences(trial: TrialConfig, source: TrialConfig) -> list[str]:
    """Fields in which a trial differs from its source and may not, each with both values."""
    now, then = flatten(to_dict(trial)), flatten(to_dict(source))
    return [
        f"{name} was {then.get(name)} and is {now.get(name)}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name) and name not in MAY_CHANGE and not name.startswith(MAY_CHANGE_SECTIONS)
    ]
