"""Actions of the study command for which the stores are enough: status, retry, cancel and prune."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from omegaconf import OmegaConf

from lina_lab.config import CheckpointConfig, PathsConfig, from_dict, to_dict
from lina_lab.config.command_line import CommandLine
from lina_lab.config.compose import check_names, composed
from lina_lab.config.grammar import refuse
from lina_lab.config.options import GROUPS, PRESETS, presets
from lina_lab.study.status import labels, look
from lina_lab.study.stored import StoredCell, StoredStudy, missing, study_names, with_values
from lina_lab.util.errors import ConfigError, StudyError, explained
from lina_lab.util.nested import flatten
from lina_lab.util.signals import stops_as_exceptions

STATUS_SECONDS = 2.0
CHANGES = {
    "retry": (StoredStudy.retry, "queued again", "none of these cells has failed or was cancelled"),
    "cancel": (StoredStudy.cancel, "cancelled, or asked to end", "none of these cells waits or runs"),
}
"""Action -> what it does; what it says of each cell that it changed, and where there is none."""


def main(line: CommandLine) -> int:
    """Run an action on the studies that a command line names.

    Args:
        line: the study, where its stores are, and which of its cells are meant.

    Returns:
        0 if the action did its work, 1 if there is no such study or a store cannot be read, 130 on Ctrl-C, 143 on
        SIGTERM.

    Raises:
        ConfigError: the command line is wrong.
    """
    _check(line)
    name, paths = _place(line)
    prefixes, values = _prefixes(line), _values(line)
    try:
        with explained(paths.folder), stops_as_exceptions():
            if name is None:
                return _all(line, paths)
            study = StoredStudy(name, paths.folder, paths.storage, reads=line.action == "status")
            choose = partial(_chosen, study.name, prefixes, values)
            if line.action == "status":
                return _status(line, study, choose)
            return _change(line, study, choose(study.cells()))
    except StudyError as error:
        return refuse(error, 1)
    except KeyboardInterrupt:
        return refuse("stopped", 130)
    except SystemExit:
        return refuse("terminated", 143)


def _check(line: CommandLine) -> None:
    """Refuse words that are no fields. Whether a field's value is right does not matter: nothing is trained."""
    if line.flags.json and line.action != "status":
        raise ConfigError("--json is for lina status")
    check_names(line, lambda _: False)


def _place(line: CommandLine) -> tuple[str | None, PathsConfig]:
    """The study's name in the stores, and where these are; None: no study is named."""
    given = {o.key_or_group: o.value() for o in line.overrides}
    chosen = line.chosen["study"]
    if chosen is not None and chosen in line.options.names("study"):
        # Its file, its task and its scale may say a name and paths of their own.
        found: Any = OmegaConf.to_container(composed(line), resolve=True)
        return str(found["study"]["name"]), from_dict(PathsConfig, found["paths"], within="paths")
    paths = {name.removeprefix("paths."): value for name, value in given.items() if name.startswith("paths.")}
    chosen = given.get("study.name", chosen)
    return None if chosen is None else str(chosen), from_dict(PathsConfig, paths, within="paths")


def _prefixes(line: CommandLine) -> list[str]:
    """What `cells` names. Hexadecimal digits may well look like a number, as 7e10 does."""
    given = next((o for o in reversed(line.overrides) if o.key_or_group == "cells"), None)
    text = "" if given is None else str(given.input_line).partition("=")[2]
    return [part for item in text.strip("[]").split(",") if (part := item.strip().strip("'\""))]


def _values(line: CommandLine) -> dict[str, Any]:
    """Field -> value for the fields of a trial that the command line sets: cells with other values are left out."""
    found: dict[str, Any] = {}
    for override in line.overrides:
        name, value = override.key_or_group, override.value()
        if name in PRESETS and value is not None:
            found |= flatten(presets(name).get(str(value), {}))
        elif name not in GROUPS:
            found |= flatten({name: value})
    return found


def _chosen(
    study: str, prefixes: Sequence[str], values: Mapping[str, Any], cells: Sequence[StoredCell]
) -> list[StoredCell]:
    """The cells that the command names.

    Raises:
        StudyError: no cell has such an id.
    """
    cells = with_values(cells, values)
    for prefix in prefixes:
        if not any(cell.state.config_hash.startswith(prefix) for cell in cells):
            how = f"lina status study={study} lists them"
            raise StudyError(f"cells: no cell of the study begins with {prefix}; {how}")
    return [cell for cell in cells if not prefixes or cell.state.config_hash.startswith(tuple(prefixes))]


def _change(line: CommandLine, study: StoredStudy, cells: Sequence[StoredCell]) -> int:
    if line.action == "prune":
        return _prune(study, cells, _policy(line, study.checkpoint_policy))
    change, what, nothing = CHANGES[line.action]
    return _listed(change(study, cells), cells, what, nothing)


def _policy(line: CommandLine, stored: CheckpointConfig) -> CheckpointConfig:
    """The present policy: as the study was last run, with the fields that the command line sets."""
    given = {name: value for name, value in _values(line).items() if name.startswith("checkpoint.")}
    fields = {name.removeprefix("checkpoint."): value for name, value in given.items()}
    return from_dict(CheckpointConfig, {**to_dict(stored), **fields}, within="checkpoint")


def _prune(study: StoredStudy, cells: Sequence[StoredCell], policy: CheckpointConfig) -> int:
    # Imports yaml, which the other actions do without.
    from lina_lab.study.tidying import tidy_cells

    shown = labels(cells)
    folders = [(study.folder / cell.state.config_hash, shown[cell.state.config_hash]) for cell in cells]
    for text in tidy_cells(folders, policy, study.name):
        print(text, flush=True)
    return 0


def _status(line: CommandLine, study: StoredStudy, choose: Callable[[list[StoredCell]], list[StoredCell]]) -> int:
    if line.flags.json:
        print(json.dumps(look(study, choose).to_dict(), indent=1))
        return 0
    if not sys.stdout.isatty():
        print(look(study, choose), end="")
        return 0
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, markup=False, soft_wrap=True)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            view = look(study, choose)
            live.update(str(view), refresh=True)
            if not view.working:
                return 0
            time.sleep(STATUS_SECONDS)


def _all(line: CommandLine, paths: PathsConfig) -> int:
    names = study_names(paths.folder, paths.storage)
    if line.action != "status" or not names:
        raise missing(None, paths.folder, paths.storage)
    views = [look(StoredStudy(name, paths.folder, paths.storage, reads=True), list) for name in names]
    if line.flags.json:
        print(json.dumps([view.to_dict() for view in views], indent=1))
    else:
        print("\n".join(view.summary() for view in views))
    return 0


def _listed(changed: Sequence[StoredCell], cells: Sequence[StoredCell], what: str, nothing: str) -> int:
    shown = labels(cells)
    lines = [f"{what}: {cell.state.config_hash} {shown[cell.state.config_hash]}" for cell in changed]
    print("\n".join(lines) or nothing)
    return 0
