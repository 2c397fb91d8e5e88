"""Spikes of the training loss: counted by a rule that depends on the losses alone."""

from statistics import median
from typing import Any

WINDOW = 100
"""Losses before a step that it is compared with."""
ENOUGH = 20
"""Losses that there must be before anything counts as a spike."""
FACTOR = 8.0
"""A spike is further above the median than this multiple of the median distance from it: 5.4 standard deviations of
normally distributed losses."""


class Spikes:
    """Counts excursions of the loss far above the median of the last steps.

    Steps in a row that are that far above it are one spike. Medians of losses and of their distances do not move much
    with a spike that is among them.
    """

    def __init__(self) -> None:
        self.count = 0
        self._above = False
        self._losses: list[float] = []

    def update(self, loss: float) -> None:
        """Take a step's loss into account."""
        above = False
        if len(self._losses) >= ENOUGH:
            middle = median(self._losses)
            above = loss > middle + FACTOR * median([abs(each - middle) for each in self._losses])
        self.count += above and not self._above
        self._above = above
        self._losses = [*self._losses, loss][-WINDOW:]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"count": self.count, "above": self._above, "losses": list(self._losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.count, self._above, self._losses = state["count"], state["above"], list(state["losses"])
