"""Hydra composes, `config.py` types: the schema that Hydra sees, the help, and the one conversion.

A study file under `studies/` is an option of Hydra's group `study`. Everything is looked over before anything starts:
what is wrong raises ConfigError with one sentence.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from lina_lab.config import CommandConfig, DataConfig, PathsConfig, StudyConfig, TrialConfig, from_dict, to_dict
from lina_lab.config.grammar import documentation, one_line
from lina_lab.config.presets import SIZES
from lina_lab.config.studies import OVERLAYS, ConfigError, overlay, overlay_names, read_study, study_files
from lina_lab.study.grid import Plan, flatten, make_plan

SECTIONS: dict[str, Any] = {"study": StudyConfig, "paths": PathsConfig}
"""What the whole configuration has beside a trial's fields."""

COMMAND = typing.get_type_hints(CommandConfig)
"""Fields at the top that say what to do, and are no trial's."""

PRESETS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "size": ("model", SIZES),
    "data": ("data", {name: {"name": name} for name in typing.get_args(typing.get_type_hints(DataConfig)["name"])}),
}
"""Groups whose options give fields of a section some values: group -> section, options."""

MISSING = "???"
"""OmegaConf's mark of a value that must be given."""

HELP = """\
Runs every cell of a study that is not done yet.

  python -m lina_lab.run study=NAME [field=value ...]

A field that an axis of the study varies is fixed by giving it a value. size=NAME gives those of a preset:
{sizes}.
data=NAME is data.name=NAME: {datas}.
task=NAME asks a study's question of another task: {tasks} (text to image).
scale=NAME lays other sizes, data and resources over a study: {scales}.
Hydra's own flags: --cfg job shows the configuration, --hydra-help lists the rest.

Studies
{studies}

Fields
{fields}
"""


def register_configs(arguments: Sequence[str] = ()) -> None:
    """Enter the schema, the studies, what can be laid over them, and the help in Hydra's ConfigStore.

    A file under `studies/` that is not a study is named as such in the help, and in the way of no other study.

    Args:
        arguments: the command line; what is laid over a study depends on which one it is.

    Raises:
        ConfigError: the chosen study's file is not a study, or what is laid over it cannot be.
    """
    store, questions = ConfigStore.instance(), []
    chosen = {group: _chosen(group, arguments) for group in ("study", *OVERLAYS)}
    study: dict[str, Any] = {}
    for path in study_files():
        try:
            node = read_study(path)
        except ConfigError as error:
            if path.stem == chosen["study"]:
                raise
            questions.append(f"  {path.stem}: cannot be run, {error}")
            continue
        if path.stem == chosen["study"]:
            study = node
        own = {name: part for name, part in node.items() if name not in OVERLAYS}
        store.store(group="study", name=path.stem, node=own, package="_global_")
        questions.append(f"  {path.stem}: {' '.join(node['study']['question'].split())}")
    for group in OVERLAYS:
        for name in overlay_names(group):
            try:
                node = overlay(group, name, study, chosen)
            except ConfigError:
                if name == chosen[group]:
                    raise
                continue
            store.store(group=group, name=name, node=node, package="_global_")
    for group, (section, options) in PRESETS.items():
        for name, preset in options.items():
            store.store(group=group, name=name, node=preset, package=section)
    _store_help(store, questions)
    groups = [{group: None} for group in ("study", *OVERLAYS, *PRESETS)]
    quiet = [{f"override hydra/{name}_logging": "none"} for name in ("job", "hydra")]
    defaults = ["_self_", *groups, {"override hydra/help": "lina_lab"}, *quiet]
    hydra = {"run": {"dir": "."}, "output_subdir": None}
    store.store(name="config", node={"defaults": defaults, **_defaults(), "hydra": hydra})


def _chosen(group: str, arguments: Sequence[str]) -> str | None:
    given = (a.removeprefix(f"{group}=") for a in reversed(arguments) if a.startswith(f"{group}="))
    return next((name.strip("'\"") for name in given), None)


def _store_help(store: ConfigStore, questions: list[str]) -> None:
    fields = "\n".join(f"  {name} = {default}\n      {doc}" for name, default, doc in _documented_fields())
    names = {f"{group}s": _listed(known) for group, known in _groups().items()}
    text = HELP.format(studies="\n".join(questions), fields=fields, **names)
    node = {"app_name": "lina_lab", "header": "", "footer": "", "template": text.replace("$", "$$")}
    store.store(group="hydra/help", name="lina_lab", node=node)


def check_overrides(arguments: Sequence[str]) -> None:
    """Look the command line over before Hydra does, whose messages do not name what is allowed.

    Raises:
        ConfigError: a field that does not exist, a study that does not exist, or Hydra's multirun.
    """
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError("a study enumerates its own cells: change its axes with study.axes, in place of --multirun")
    names = [path.stem for path in study_files()]
    try:
        overrides = OverridesParser.create().parse_overrides(overrides_of(arguments))
    except HydraException as error:
        raise ConfigError(one_line(error)) from None
    groups = _groups()
    for override in overrides:
        if override.is_delete():
            raise ConfigError(f"~{override.key_or_group} would leave the field out; give it a value")
        if override.key_or_group.startswith(("hydra.", "hydra/")):
            raise ConfigError(f"{override.key_or_group} cannot be set: where this command writes is set by paths.runs")
        if override.is_sweep_override():
            raise ConfigError(f"{override.key_or_group} takes one value; several values make an axis of the study")
        if override.key_or_group == "study":
            if not isinstance(override.value(), str) and override.get_value_element_as_str() in names:
                raise ConfigError(
                    f"study={override.value()} is not text to Hydra: write \"study='{override.value()}'\""
                )
            if override.value() not in names:
                raise ConfigError(f"there is no study {override.value()}; the studies are {_listed(names)}")
        elif override.key_or_group in groups:
            known = groups[override.key_or_group]
            if override.value() not in known:
                what = override.key_or_group.replace("data", "data set")
                raise ConfigError(f"there is no {what} {override.value()}; the {what}s are {_listed(known)}")
        else:
            _check_field(override.key_or_group, override.value())


def _groups() -> dict[str, list[str]]:
    """The groups beside the study, and their options."""
    laid_over = {group: list(overlay_names(group)) for group in OVERLAYS}
    return laid_over | {group: list(options) for group, (_, options) in PRESETS.items()}


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """The arguments that are Hydra's overrides, and not its flags."""
    return [given for given in arguments if given.startswith("~") or (given[:1] != "-" and "=" in given)]


def overridden_fields(arguments: Sequence[str]) -> list[str]:
    """The fields that a command line gives a value, each by its dotted name: `model={dim:3}` names `model.dim`."""
    overridden = []
    for override in OverridesParser.create().parse_overrides(overrides_of(arguments)):
        value = override.value()
        if override.key_or_group in OVERLAYS:
            continue
        if override.key_or_group in PRESETS:
            section, options = PRESETS[override.key_or_group]
            overridden += [f"{section}.{name}" for name in options[str(value)]]
            continue
        inner = flatten(value) if isinstance(value, dict) else {}
        overridden += [f"{override.key_or_group}.{name}" for name in inner] or [override.key_or_group]
    return overridden


def _check_field(key: str, value: Any) -> None:
    node: Any = None
    so_far = ""
    for part in key.split("."):
        known = _children(node)
        if part not in known:
            near = difflib.get_close_matches(part, known, n=1)
            hint = f" (did you mean {so_far}{near[0]}?)" if near else ""
            if so_far and not known:
                raise ConfigError(f"{so_far}{part} is not a field: {so_far[:-1]} has none")
            owner = f"the fields of {so_far[:-1]} are" if so_far else "the fields are"
            raise ConfigError(f"{so_far}{part} is not a field{hint}; {owner} {_listed(known)}")
        kind = known[part]
        nested = _dataclass_in(kind)
        if nested is not None and type(None) in typing.get_args(kind) and key != f"{so_far}{part}":
            raise ConfigError(
                f"{so_far}{part} is null unless it is given whole, as '{so_far}{part}={{FIELD:VALUE,...}}'"
            )
        if nested is kind and key == f"{so_far}{part}" and not isinstance(value, dict):
            raise _not_a_section(key, value)
        if nested is None and typing.get_origin(kind) is dict:
            if value == {}:
                raise ConfigError(f"{key}={{}} changes nothing: name the fields and their values")
            return
        node, so_far = nested or (), f"{so_far}{part}."


def _not_a_section(name: str, value: Any) -> ConfigError:
    return ConfigError(f"{name}={value} is a section: give its fields, as {name}.FIELD=VALUE")


def _children(node: Any) -> dict[str, Any]:
    if node is None:
        return {**SECTIONS, **typing.get_type_hints(TrialConfig), **COMMAND}
    return typing.get_type_hints(node) if dataclasses.is_dataclass(node) else {}


def _dataclass_in(kind: Any) -> type | None:
    """The dataclass that a field of this type holds, also where it may be null."""
    options = [kind, *typing.get_args(kind)]
    return next((option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)), None)


def convert(data: dict[str, Any], overridden: Sequence[str]) -> tuple[Plan, PathsConfig, CommandConfig]:
    """The composed data as typed, checked configuration: the one place where this is done.

    Args:
        data: what Hydra composed, as plain nested data.
        overridden: the fields that the command line names.

    Raises:
        ConfigError: one sentence that names what is wrong and what is allowed.
    """
    for name in _sections():
        if not isinstance(data[name], dict):
            raise _not_a_section(name, data[name])
    if data["study"]["name"] == MISSING:
        names = _listed(path.stem for path in study_files())
        raise ConfigError(f"name a study with study=NAME; the studies are {names}")
    command_fields = {name: data[name] for name in COMMAND}
    base = {name: value for name, value in data.items() if name not in SECTIONS and name not in command_fields}
    try:
        command = from_dict(CommandConfig, command_fields)
        study = from_dict(StudyConfig, data["study"], within="study")
        paths = from_dict(PathsConfig, data["paths"], within="paths")
        return make_plan(study, base, overridden), paths, command
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _sections() -> list[str]:
    kinds = typing.get_type_hints(TrialConfig)
    return [*SECTIONS, *(name for name, kind in {**COMMAND, **kinds}.items() if dataclasses.is_dataclass(kind))]


def _defaults() -> dict[str, Any]:
    """The schema with its default values, as plain nested data; `???` where there is none."""
    parts: dict[str, Any] = {"seed": 0, "paths": to_dict(PathsConfig()), **to_dict(CommandConfig())}
    for name, kind in typing.get_type_hints(TrialConfig).items():
        if dataclasses.is_dataclass(kind):
            parts[name] = to_dict(typing.cast(Any, kind)())
    parts["study"] = {field.name: _default(field) for field in dataclasses.fields(StudyConfig)}
    return parts


def _default(field: "dataclasses.Field[Any]") -> Any:
    """A field's default as plain data; `???` where there is none."""
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        return [to_dict(part) for part in value] if isinstance(value, list) else value
    if field.default is dataclasses.MISSING:
        return MISSING
    return to_dict(field.default) if dataclasses.is_dataclass(field.default) else field.default


def _documented_fields() -> Iterator[tuple[str, Any, str]]:
    """Each field that can be given: dotted name, default, documentation with the allowed values."""
    kinds = {**COMMAND, **SECTIONS, **typing.get_type_hints(TrialConfig)}
    yield from _fields_under("", kinds, _defaults())


def _fields_under(prefix: str, kinds: dict[str, Any], defaults: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    for name, kind in kinds.items():
        if isinstance(defaults[name], dict) and _dataclass_in(kind) is not None:
            yield from _fields_under(f"{prefix}{name}.", _children(_dataclass_in(kind)), defaults[name])
            continue
        owner: Any = _owner(prefix) if prefix else (CommandConfig if name in COMMAND else TrialConfig)
        default = "null" if defaults[name] is None else defaults[name]
        yield f"{prefix}{name}", default, documentation(owner, name, kind)


def _owner(prefix: str) -> Any:
    node: Any = None
    for part in prefix[:-1].split("."):
        node = _dataclass_in(_children(node)[part])
    return node


def sentence(error: HydraException | OmegaConfBaseException) -> str:
    """What Hydra or OmegaConf found wrong, on one line."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    return " ".join(one_line(part) for part in (error, cause) if part is not None)


def _listed(names: Any) -> str:
    return ", ".join(names)
