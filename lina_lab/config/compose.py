"""From a command line to a typed study: Hydra composes, the dataclasses of `lina_lab.config` check.

A study, a task and a scale are options of Hydra's groups of these names, in the config directory `lina_lab.studies` and
in the user's own. What one changes in another is an option of `study_task`, `study_scale` or `task_scale`, which is
chosen by their names ("specializing configuration" in Hydra's manual). Later ones win: study, task, scale, size, data,
command line. Whatever is wrong raises ValueError with one sentence, before anything starts.
"""

import typing
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lina_lab.config import CommandConfig, PathsConfig, StudyConfig, TrialConfig, from_dict
from lina_lab.config.command_line import CommandLine
from lina_lab.config.fields import (
    COMMAND,
    TRIAL,
    check_field,
    check_sections,
    defaults,
)
from lina_lab.config.grammar import MISSING, default_values, one_line, quoted, shown
from lina_lab.config.hints import (
    NO_SWEEPER,
    check_choice,
    check_one_choice,
    check_word,
    check_words,
    is_several,
    several_values,
)
from lina_lab.config.options import FILES, GROUPS, HEADER, PRESETS, presets
from lina_lab.config.overrides import for_hydra
from lina_lab.util.errors import ConfigError
from lina_lab.util.nested import flatten

ROOT = "lina_lab"
"""Name of the primary configuration: no file of the user's is taken for it."""
NO_PLUGINS = ("launcher", "sweeper", "help", "hydra_help", "job_logging", "hydra_logging", "output", "env")
"""Hydra's own groups. They are for its runner, which is not used, and reading them takes most of its time."""


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A command line as typed, checked configuration."""

    study: StudyConfig
    base: dict[str, Any]
    """A trial's fields before the axes set theirs, as plain nested data."""
    paths: PathsConfig
    command: CommandConfig
    overridden: tuple[str, ...]
    """Dotted names of the fields that the command line sets."""
    fixed: frozenset[str] = frozenset()
    """Those of a trial that the user set for these data: on the command line, or in the file that names the data."""


def compose(line: CommandLine) -> Composed:
    """The configuration that a command line asks for.

    Raises:
        ValueError: one sentence that names what is wrong and what is allowed.
    """
    data = _with_names(OmegaConf.to_container(composed(line), resolve=True))
    check_sections(data)
    if "study" in data["study"]:
        raise ConfigError(f"a file that the study starts from lacks the line {HEADER}")
    check_words(data)
    if data["study"]["name"] == MISSING:
        names = ", ".join(line.options.names("study"))
        raise ConfigError(f"name a study with study=NAME; the studies are {names}")
    if data["seed"] != 0 and "seed" not in line.overridden:
        raise ConfigError("seed is not for a study to set; its seeds are study.seeds")
    return Composed(
        command=from_dict(CommandConfig, {name: data[name] for name in COMMAND}),
        study=from_dict(StudyConfig, data["study"], within="study"),
        paths=from_dict(PathsConfig, data["paths"], within="paths"),
        base={name: data[name] for name in TRIAL},
        overridden=line.overridden,
        fixed=_fixed(line, data),
    )


def _fixed(line: CommandLine, data: Mapping[str, Any]) -> frozenset[str]:
    """The fields of a trial that the user set for its data; see `Composed.fixed`.

    What files set is for the data that they name, and nothing is set where a field has its default.
    """
    if "data.name" in line.overridden and _data_of_files(line) != data["data"]["name"]:
        return frozenset(line.overridden)
    plain = flatten(default_values(TrialConfig))
    own = flatten({name: data[name] for name in TRIAL})
    return frozenset([*line.overridden, *(name for name, value in own.items() if value != plain.get(name))])


def _data_of_files(line: CommandLine) -> str:
    files = copy(line)
    files.overrides = [override for override in line.overrides if override.key_or_group in FILES]
    return str(_hydra(files, []).data.name)


def _with_names(data: Any) -> Any:
    """The data with text for each key: a size is a number in YAML and on the command line, and a name in a mapping."""
    if isinstance(data, list):
        return [_with_names(part) for part in data]
    return {shown(name): _with_names(part) for name, part in data.items()} if isinstance(data, dict) else data


def composed(line: CommandLine) -> DictConfig:
    """What Hydra composes, with the study's name.

    Raises:
        ConfigError: see `compose`.
    """
    _check(line)
    try:
        return _hydra(line, [asked for o in line.overrides if o.key_or_group not in GROUPS for asked in for_hydra(o)])
    except MissingConfigException as error:
        raise ConfigError(f"there is no file {error.missing_cfg_file}.yaml to start from") from None
    except RecursionError:
        raise ConfigError("the files of the study start from each other in a circle: see their `defaults`") from None
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
        raise ConfigError(" ".join(one_line(part) for part in (error, cause) if part is not None)) from None


def _check(line: CommandLine) -> None:
    """Check the command line before Hydra does, whose messages do not name what is allowed."""
    check_names(line, lambda section: _is_null(line, section))
    for group in GROUPS:
        check_choice(line.options, group, line.chosen[group])
    if line.flags.multirun:
        raise ConfigError(f"{NO_SWEEPER}, in place of --multirun")
    line.options.check(line.chosen)


def check_names(line: CommandLine, is_null: Callable[[str], bool]) -> None:
    """Check that each argument gives one value to a field that there is.

    Args:
        line: the command line.
        is_null: whether a section that may be null is.

    Raises:
        ConfigError: one sentence.
    """
    for override in line.overrides:
        name = override.key_or_group
        if name in GROUPS:
            check_one_choice(override)
            continue
        check_word(name)
        if is_several(override):
            raise several_values(override, _axes(line))
        check_field(name, override.value(), is_null)


def _axes(line: CommandLine) -> Mapping[str, Mapping[str, Any]]:
    """The axes of the chosen study, whatever else the command line says."""
    try:
        return typing.cast(dict[str, dict[str, Any]], OmegaConf.to_container(_hydra(line, []).study.axes))
    except (HydraException, OmegaConfBaseException, YAMLError):
        return {}


def _is_null(line: CommandLine, section: str) -> bool:
    """Whether neither the chosen files nor the command line give a section that may be null."""
    if any(o.key_or_group == section and isinstance(o.value(), dict) for o in line.overrides):
        return False
    try:
        return OmegaConf.select(_hydra(line, []), section) is None
    except (HydraException, OmegaConfBaseException, YAMLError):
        return True


def _hydra(line: CommandLine, overrides: Sequence[str]) -> DictConfig:
    first, *others = line.options.folders
    _store(others)
    groups = [f"{group}={quoted(name)}" for group, name in line.chosen.items() if name is not None]
    with initialize_config_dir(version_base="1.3", config_dir=str(first)):
        found = hydra_compose(ROOT, [*groups, *overrides], return_hydra_config=True)
    chosen = [found.hydra.runtime.choices[group] for group in FILES]
    with open_dict(found):
        del found["hydra"]
    if chosen[0] is not None and "study.name" not in line.overridden:
        own = chosen[0] if OmegaConf.is_missing(found.study, "name") else found.study.name
        found.study.name = "_".join([own, *(name for name in chosen[1:] if name is not None)])
    return found


def _store(others: Sequence[Path]) -> None:
    """Enter the schema and the presets in Hydra's ConfigStore."""
    store = ConfigStore.instance()
    for group in PRESETS:
        for name, node in presets(group).items():
            store.store(group=group, name=name, node=node, package="_global_")
    order: list[Any] = ["_self_", {"study": None}, {"task": None}, {"optional study_task": "${study}_${task}"}]
    order += [{"scale": None}, {"optional task_scale": "${task}_${scale}"}]
    order += [{"optional study_scale": "${study}_${scale}"}]
    order += [{group: None} for group in PRESETS]
    order += [{f"override hydra/{group}": None} for group in NO_PLUGINS]
    hydra = {"searchpath": [f"file://{folder}" for folder in others]}
    store.store(name=ROOT, node={"defaults": order, **defaults(), "hydra": hydra})
