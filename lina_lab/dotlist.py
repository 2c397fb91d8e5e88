"""Command lines of `field=value`, with dots for fields of fields, into a checked dataclass."""

from collections.abc import Sequence
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lina_lab.config import from_dict

T = TypeVar("T")


def parse(cls: type[T], arguments: Sequence[str]) -> T:
    """The dataclass `cls` with the fields that `arguments` give.

    Raises:
        ValueError: one sentence on what is wrong.
    """
    try:
        return from_dict(cls, OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments))))
    except OmegaConfBaseException as error:
        raise ValueError(str(error)) from error


def one_line(error: BaseException) -> str:
    """An error's message as one line."""
    return " ".join(str(error).split())
