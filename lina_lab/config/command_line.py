"""The arguments of the study command, read; nothing is composed, so that help and the stores need no Hydra."""

from collections.abc import Sequence
from typing import Any

from lina_lab.config.flags import read_flags
from lina_lab.config.options import GROUPS, PRESETS, Options, files_by_path, presets
from lina_lab.config.overrides import read
from lina_lab.util.errors import ConfigError
from lina_lab.util.nested import flatten


class CommandLine:
    """The arguments of the study command, read once."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Read flags and overrides.

        Raises:
            ConfigError: a flag that is not known, or an argument that is not in Hydra's grammar.
        """
        self.flags, rest = read_flags(arguments)
        named = Options(self.flags.config_dir)
        for argument in rest:
            if "=" not in argument and named.is_study(argument):
                raise ConfigError(f"{argument} is not understood: write study={argument}")
        self.overrides = [override for argument in rest for override in read(argument)]
        self.options = Options(self.flags.config_dir, files_by_path(self._choices()))

    @property
    def chosen(self) -> dict[str, str | None]:
        """The option of each group; None: none is chosen."""
        by_path = {group: path.stem for group, path in self.options.files.items()}
        return {**dict.fromkeys(GROUPS), **self._choices(), **by_path}

    def _choices(self) -> dict[str, Any]:
        """What the command line says for each group, which may be a path."""
        return {o.key_or_group: o.value() for o in self.overrides if o.key_or_group in GROUPS}

    @property
    def action(self) -> str:
        """What the command is to do."""
        return str(next((o.value() for o in reversed(self.overrides) if o.key_or_group == "action"), "run"))

    @property
    def overridden(self) -> tuple[str, ...]:
        """Dotted names of the fields that are set: `model={dim:3}` sets `model.dim`."""
        found: list[str] = []
        for override in self.overrides:
            name, value = override.key_or_group, override.value()
            if name in PRESETS and value is not None:
                found += flatten(presets(name)[value])
            elif name not in GROUPS:
                found += flatten({name: value}) or [name]
        return tuple(found)
