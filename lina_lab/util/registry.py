"""A registry: names to makers of one kind of part, where a taken name is an error."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Maps the names that a configuration field allows to what makes the part.

    `config.py` lists the same names as the field's type; a test keeps the two in step.
    """

    def __init__(self, field: str) -> None:
        self.field = field
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters what it decorates under `name`.

        Raises:
            ValueError: the name is taken.
        """

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.field}={name} is registered already")
            self._entries[name] = entry
            return entry

        return enter

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
