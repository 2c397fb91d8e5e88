"""Registries: names to entries, to which packages of others can add theirs; a taken name is an error.

A package adds an entry by an entry point, which its own pyproject.toml declares:

    [project.entry-points."lina_lab.variants"]
    head = "my_package.variants:HEAD"

Entry points are read only when a name is not a built-in one, or when names are listed. A configuration holds names of
entries, and never names of code.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Protocol, TypeVar


class Entry(Protocol):
    """What an entry of an `OpenRegistry` has; `check` raises ValueError for one that is not complete."""

    @property
    def name(self) -> str:
        """The value of the configuration's field."""

    def check(self) -> None:
        """Refuse an entry that is not complete.

        Raises:
            ValueError: one sentence.
        """


E = TypeVar("E", bound=Entry)


class PackageError(ValueError):
    """An entry point of another package cannot be used; the message names the package."""


@dataclass(frozen=True)
class Provided:
    """An object that an entry point named."""

    package: str
    """Name and version of the package."""
    value: Any


class OpenRegistry(Mapping[str, E], Generic[E]):
    """Maps the names that a configuration field allows to entries, built-in ones and those of other packages.

    Looking up a built-in name never reads entry points; looking up another name, and listing names, does.

    Args:
        field: the configuration's field, for messages.
        group: the entry points' group.
        kind: the entries' class. Several registries may share a group; each takes the entries of its own class.
        unused: the field's value where nothing takes the part; None: there is none.
    """

    _of_group: dict[str, "list[OpenRegistry[Any]]"] = {}  # noqa: RUF012 (of all registries)

    def __init__(self, field: str, group: str, kind: type[E], unused: str | None = None) -> None:
        self.field, self.group, self.kind, self.unused = field, group, kind, unused
        self.builtin: dict[str, E] = {}
        """The entries of this package alone."""
        self._outside: dict[str, E] | None = None
        self._of_group.setdefault(group, []).append(self)

    def register(self, entry: E) -> E:
        """Enter a built-in entry, and return it.

        Raises:
            ValueError: the name is taken, or the entry is not complete.
        """
        self._refuse(entry, self.builtin)
        self.builtin[entry.name] = entry
        return entry

    def _refuse(self, entry: E, taken: Mapping[str, E]) -> None:
        if not isinstance(entry.name, str) or not entry.name:
            raise ValueError(f"an entry for {self.field} needs a name, not {entry.name!r}")
        if entry.name in taken:
            raise ValueError(f"{self.field}={entry.name} is registered already")
        entry.check()

    def outside(self) -> Mapping[str, E]:
        """The entries of other packages.

        Raises:
            PackageError: an entry point of the group cannot be loaded, is not an entry, or is refused.
        """
        if self._outside is None:
            found: dict[str, E] = {}
            kinds = tuple(registry.kind for registry in self._of_group[self.group])
            for provided in provided_by_packages(self.group):
                if not isinstance(provided.value, kinds):
                    names = " or ".join(sorted(kind.__name__ for kind in kinds))
                    raise PackageError(
                        f"package {provided.package}: its entry point in {self.group} is not a {names}, but "
                        f"{provided.value!r}"
                    )
                if isinstance(provided.value, self.kind):
                    try:
                        self._refuse(provided.value, {**self.builtin, **found})
                    except ValueError as error:
                        raise PackageError(f"package {provided.package}: {error}") from error
                    found[provided.value.name] = provided.value
            self._outside = found
        return self._outside

    def __getitem__(self, name: str) -> E:
        return self.builtin[name] if name in self.builtin else self.outside()[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.builtin
        yield from self.outside()

    def __len__(self) -> int:
        return len(self.builtin) + len(self.outside())


@cache
def provided_by_packages(group: str) -> tuple[Provided, ...]:
    """The objects that installed packages' entry points of a group name, in the order of the packages' names.

    Raises:
        PackageError: one cannot be loaded.
    """
    from importlib.metadata import entry_points

    found = []
    for point in sorted(entry_points(group=group), key=lambda p: (p.dist.name if p.dist else "", p.name)):
        package = "unknown" if point.dist is None else f"{point.dist.name} {point.dist.version}"
        try:
            found.append(Provided(package, point.load()))
        except Exception as error:  # whatever a module of somebody else's raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            where = f"its entry point {point.name} = {point.value} in {group}"
            raise PackageError(f"package {package}: {where} cannot be loaded ({reason})") from error
    return tuple(found)


def resolve(target: Any) -> Any:
    """What an entry names: the object of "package.module:attribute", imported now; any other object as it is."""
    if not isinstance(target, str):
        return target
    from importlib import import_module

    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
