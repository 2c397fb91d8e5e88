"""Which events of a study run a command of the user's."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, FROM_LIST, PositiveFloat

Event = Literal["done", "diverged", "failed", "interrupted", "cancelled", "pruned", "study"]
"""How a cell ended; `study` is the end of the command that runs a study."""


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class AlertsConfig:
    """A command that is run when a cell or the study has ended. Not part of any trial's config hash."""

    command: Annotated[str, Field(min_length=1)] | None = None
    """Shell command, such as ./alert.sh; null: none. It finds LINA_EVENT (cell or study), LINA_STUDY, LINA_CELL,
    LINA_STATUS, LINA_FOLDER and LINA_MESSAGE in its environment, and the same as JSON on its standard input."""
    on: Annotated[tuple[Event, ...], FROM_LIST] = ("failed", "diverged", "study")
    """The events: statuses in which a cell ends, and study for the end of `lina run`."""
    timeout_seconds: PositiveFloat = 30.0
    """How long the command may take; then it is ended, and the log says so."""
