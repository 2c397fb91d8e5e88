"""The files under `studies/`: studies, and what can be laid over any of them."""

from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lina_lab.config.grammar import ConfigError, one_line

OVERLAYS = ("task", "scale")
"""Folders of what can be laid over a study, in this order; a file's section of that name is its own part of it."""


def studies_folder() -> Path:
    """`studies` in the working directory, or else beside the package."""
    here = Path("studies")
    return here if here.is_dir() else Path(__file__).parents[2] / "studies"


def study_files() -> list[Path]:
    """The studies, by name."""
    return sorted(studies_folder().glob("*.yaml"))


def overlay_names(group: str) -> list[str]:
    """Names of what can be laid over any study: of its tasks, or of its scales."""
    return [path.stem for path in sorted((studies_folder() / group).glob("*.yaml"))]


def read_study(path: Path) -> dict[str, Any]:
    """A study's file as plain data.

    Raises:
        ConfigError: it is not a study.
    """
    node = _read(path)
    study = node.get("study") if isinstance(node, dict) else None
    if not isinstance(node, dict) or not isinstance(study, dict) or not isinstance(study.get("question"), str):
        raise ConfigError(f"{path} is not a study: it needs a section `study` with a `question` in words")
    if "seed" in node or "hydra" in node:
        raise ConfigError(f"{path}: seed and hydra are not for a study to set; its seeds stand in study.seeds")
    for group in OVERLAYS:
        _own_parts(path, node, group)
    study.setdefault("name", path.stem)
    return cast(dict[str, Any], node)


def _own_parts(path: Path, node: dict[str, Any], group: str) -> dict[str, Any]:
    """What a file changes besides in what is laid over: name -> sections."""
    own, known = node.get(group, {}), overlay_names(group)
    if not isinstance(own, dict) or not all(isinstance(part, dict) for part in own.values()):
        raise ConfigError(f"{path}: {group} maps the name of a {group}, such as {', '.join(known)}, to what it changes")
    # A folder of studies without any of them may hold copies of ours.
    if known and (unknown := [str(name) for name in own if name not in known]):
        raise ConfigError(f"{path}: there is no {group} {unknown[0]}; the {group}s are {', '.join(known)}")
    return own


def overlay(group: str, name: str, study: dict[str, Any], chosen: dict[str, str | None]) -> Any:
    """What a task or a scale changes in a study, which gets a name of its own by it.

    Args:
        group: `task` or `scale`.
        name: its file's.
        study: the chosen study's file; empty if none is chosen.
        chosen: group -> name, of the command line. A chosen task has its own part of a scale, as the study has.

    Raises:
        ConfigError: the file cannot be laid over a study.
    """
    path = studies_folder() / group / f"{name}.yaml"
    common = _read(path)
    if not isinstance(common, dict):
        raise ConfigError(f"{path} holds no sections of fields")
    parts = [{field: part for field, part in common.items() if field not in OVERLAYS}]
    task = chosen.get("task") if group == "scale" else None
    if study:
        parts.append({"study": {"name": "_".join([study["study"]["name"], *([task] if task else []), name])}})
    if task in overlay_names("task"):
        file = studies_folder() / "task" / f"{task}.yaml"
        parts.append(_own_parts(file, _read(file), group).get(name, {}))
    parts.append(study.get(group, {}).get(name, {}))
    try:
        return OmegaConf.merge(*parts)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{path} cannot be laid over a study: {one_line(error)}") from None


def _read(path: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {one_line(error)}") from None
