"""What a study command can choose by name: studies, tasks and scales are files, sizes and data sets are presets.

Files lie in Hydra config directories: that of a file that is chosen by its path, that of `--config-dir`, `./studies`,
and ours, in this order. A file of the user's that is broken disturbs nobody who does not choose it.
"""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from lina_lab.config.datasets import DATA_SETS
from lina_lab.config.grammar import one_line
from lina_lab.config.presets import SIZES
from lina_lab.util.errors import ConfigError

FILES = ("study", "task", "scale")
"""Groups whose options are files."""
OWN = (("study", "task"), ("study", "scale"), ("task", "scale"))
"""Pairs of groups: `study_task/NAME_TASK.yaml` is what a study changes in a task, and so on."""
HEADER = "# @package _global_"
"""First line of every file: its fields are those of the whole configuration."""
PRESETS = ("size", "data")
GROUPS = (*FILES, *PRESETS)
HERE = Path("studies")
MOST_VALUES = 100_000
"""In one file, with its aliases written out: a study of ours has less than 200."""
OURS = Path(str(files("lina_lab.studies")))


def presets(group: str) -> dict[str, dict[str, Any]]:
    """The options of `size` or `data`, with the fields that each one sets."""
    if group == "size":
        return {name: {"model": fields} for name, fields in SIZES.items()}
    return {name: {"data": {"name": name}} for name in DATA_SETS}


@dataclass(frozen=True)
class Options:
    """The options of all groups, in the folders that are searched."""

    config_dir: Path | None = None
    """Folder of `--config-dir`."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Group -> the file that is chosen by its path."""

    @cached_property
    def _links(self) -> Path | None:
        """A config directory with a link to each folder of `files` that is not in Hydra's layout; None: all are."""
        loose = {group: path.parent for group, path in self.files.items() if path.parent.name != group}
        if not loose:
            return None
        made = tempfile.mkdtemp(prefix="lina_")
        weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
        for group, folder in loose.items():
            (Path(made) / group).symlink_to(folder)
        return Path(made)

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """Config directories, the first one first.

        Raises:
            ConfigError: `--config-dir` is no folder.
        """
        found = [] if self._links is None else [self._links]
        found += [path.parents[1] for group, path in self.files.items() if path.parent.name == group]
        if self.config_dir is not None:
            if not self.config_dir.is_dir():
                raise ConfigError(f"--config-dir {self.config_dir} is not a folder")
            found.append(self.config_dir.resolve())
        if any((HERE / group).is_dir() for group in ("base", *FILES)):
            found.append(HERE.resolve())
        return tuple(dict.fromkeys([*found, OURS.resolve()]))

    def names(self, group: str) -> list[str]:
        """The options of a group."""
        if group in PRESETS:
            return list(presets(group))
        return sorted({path.stem for folder in self.folders for path in (folder / group).glob("*.yaml")})

    def is_study(self, word: str) -> bool:
        """Whether a word names a study or its file."""
        return Path(word).is_file() or (self.file("study", word) is not None)

    def file(self, group: str, name: str) -> Path | None:
        """The file of an option, as Hydra finds it; None: there is none."""
        paths = (folder / group / f"{name}.yaml" for folder in self.folders)
        return next((path for path in paths if path.is_file()), None)

    def check(self, chosen: Mapping[str, str | None]) -> None:
        """Check the user's own files for what Hydra's messages would not explain.

        Args:
            chosen: group -> name.

        Raises:
            ConfigError: one of them is not what its folder holds.
        """
        named = [(group, chosen[group]) for group in FILES]
        named += [(f"{a}_{b}", f"{chosen[a]}_{chosen[b]}") for a, b in OWN if chosen[a] and chosen[b]]
        for group, name in named:
            if name is not None and (path := self.file(group, name)) is not None:
                _check_file(group, path)
                self._check_parents(group, path, {path})

    def _check_parents(self, group: str, path: Path, seen: set[Path]) -> None:
        """Read what a file starts from, before Hydra does, which writes aliases out without end."""
        node = None if path.parents[1] == OURS.resolve() else _read(path)
        named = node.get("defaults") if isinstance(node, dict) else None
        for name in [d for d in named if isinstance(d, str)] if isinstance(named, list) else []:
            folder, _, last = name.removeprefix("/").rpartition("/")
            parent = self.file(folder or group, last)
            if parent is not None and parent not in seen:
                self._check_parents(folder or group, parent, seen | {parent})

    def questions(self) -> list[str]:
        """A line for each study: its name and its question, or what is wrong with its file."""
        lines = []
        for name in self.names("study"):
            path = self.file("study", name)
            assert path is not None
            try:
                _check_file("study", path)
                lines.append(f"  {name}: {self._question(name)}")
            except ConfigError as error:
                lines.append(f"  {name}: cannot be run, {error}")
        return lines + [f"  {name}: cannot be run, {how}" for name, how in studies_of_before().items()]

    def _question(self, name: str, seen: tuple[str, ...] = ()) -> str:
        """A study's question; that of the study it starts from where it asks none itself."""
        path = self.file("study", name)
        node = None if path is None or name in seen else _read(path)
        study, parents = (node.get("study"), node.get("defaults")) if isinstance(node, dict) else (None, None)
        if isinstance(study, dict) and study.get("question") is not None:
            return " ".join(str(study["question"]).split())
        parents = [str(d).removeprefix("/study/") for d in parents] if isinstance(parents, list) else []
        return next((q for parent in parents if (q := self._question(parent, (*seen, name)))), "")


def files_by_path(chosen: Mapping[str, Any]) -> dict[str, Path]:
    """The files that are chosen by their paths, absolute: of studies, tasks and scales.

    Args:
        chosen: group -> a name, or a path such as `mine.yaml` or `folder/mine`.

    Raises:
        ConfigError: such a file is not there, or is none that Hydra reads.
    """
    found = {}
    for group, name in chosen.items():
        if group not in FILES or not isinstance(name, str) or not ("/" in name or name.endswith((".yaml", ".yml"))):
            continue
        path = Path(name).expanduser()
        if path.suffix == ".yml":
            raise ConfigError(f"{group}={name}: Hydra reads files that end in .yaml; rename it")
        path = path if path.suffix == ".yaml" else path.with_name(f"{path.name}.yaml")
        if not path.is_file():
            raise ConfigError(f"{group}={name}: there is no file {path}")
        found[group] = path.absolute()
    return found


def studies_of_before() -> dict[str, str]:
    """Studies whose files lie where earlier versions had them -> how to move each one."""
    return {
        path.stem: f"{path} lies where earlier versions had studies: move it to {HERE / 'study' / path.name}, and "
        f"begin it with the line {HEADER}"
        for path in sorted(HERE.glob("*.yaml"))
    }


def _read(path: Path) -> Any:
    """What a file holds.

    Raises:
        ConfigError: it cannot be read, is not YAML, or is too large once its aliases are written out, as Hydra does.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = path.read_text(encoding="utf-8")
        size = _expanded(yaml.compose(text, Loader=loader), {})
        if not size:
            raise ConfigError(f"{path} holds an alias within what it stands for")
        if size > MOST_VALUES:
            raise ConfigError(
                f"{path} holds {size:.2g} values with its aliases written out: {MOST_VALUES:,} are the most"
            )
        return yaml.load(text, Loader=loader)
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"{path} nests too deeply") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {one_line(error)}") from None


def _expanded(node: Any, known: dict[int, int]) -> int:
    """Values that a YAML node has once its aliases are written out, counted without writing them out; 0: endless.

    Args:
        node: PyYAML's; an alias is the same node again.
        known: numbers of the nodes that were counted before; 0 while one is being counted.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 0
        parts = [part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,))]
        sizes = [_expanded(part, known) for part in parts]
        known[id(node)] = 1 + sum(sizes) if all(sizes) else 0
    return known[id(node)]


def _check_file(group: str, path: Path) -> None:
    """Refuse a file of the user's that Hydra would take for something else.

    Raises:
        ConfigError: one sentence.
    """
    if path.parents[1] == OURS.resolve():
        return
    path = path if path.is_relative_to(Path.cwd()) else path.resolve()  # not by the link to it
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    node = _read(path)
    if group == "study":
        _check_study(shown, node)
    elif not isinstance(node, dict):
        raise ConfigError(f"{shown} holds no sections of fields")
    if HEADER not in path.read_text(encoding="utf-8").splitlines():
        raise ConfigError(f"{shown} needs the line {HEADER}, for it sets fields of several sections")
    if "seed" in node or "hydra" in node:
        raise ConfigError(f"{shown}: seed and hydra are not for a study to set; its seeds are study.seeds")
    for own in ("task", "scale"):
        if own in node:
            kind = "task" if group == "task" else "study"
            raise ConfigError(
                f"{shown}: what a {kind} changes in a {own} is a file of its own, as "
                f"{kind}_{own}/{path.stem}_NAME.yaml next to the folder {path.parent.name}"
            )


def _check_study(path: Path, node: Any) -> None:
    study = node.get("study", {}) if isinstance(node, dict) else None
    if isinstance(study, dict):
        starts_from_another = "question" not in study and isinstance(node.get("defaults"), list)
        if starts_from_another or isinstance(study.get("question"), str):
            return
    raise ConfigError(f"{path} is not a study: it needs a section `study` with a `question` in words")
