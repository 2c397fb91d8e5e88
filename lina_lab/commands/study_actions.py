"""Actions of the study command that need the study's stores: run, work, status, retry and cancel."""

import shlex
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live

from lina_lab.config import CommandConfig, PathsConfig
from lina_lab.launch.machine import check_machine
from lina_lab.launch.select import is_leader, launcher_for, rendezvous
from lina_lab.records.status import CellStatus
from lina_lab.study.cells import open_cells
from lina_lab.study.display import display
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.store import RETRIED, Store
from lina_lab.study.summary import Summary, summarise
from lina_lab.study.versions import newest_version
from lina_lab.study.workspace import Workspace
from lina_lab.util.errors import RefusedError, StudyError, explained
from lina_lab.util.signals import sigterm_as_exit

STATUS_SECONDS = 2.0


def run_and_report(plan: Plan, paths: PathsConfig, command: CommandConfig, arguments: Sequence[str]) -> int:
    """Run an action and print its outcome.

    Args:
        plan: the study's cells.
        paths: where results go.
        command: the action, and what trains.
        arguments: the command line, for the workers that are started with the same one.

    Returns:
        0 if no cell has failed, 1 if cells failed or the environment stopped the study, 2 if this machine cannot do
        what the command asks for, 130 on Ctrl-C, 143 on SIGTERM.
    """
    workspace = Workspace.of(plan, paths)
    actions = {"status": _status, "retry": _retry, "cancel": _cancel}
    try:
        if command.action in actions:
            return actions[command.action](workspace, command)
        with sigterm_as_exit():
            if not _leads(plan, command):
                _follow(workspace, command)
                return 0
            if command.new_version:
                with explained(workspace.runs):
                    workspace = newest_version(workspace)
                plan = workspace.plan
                arguments = [*arguments, f"study.name={plan.study.name}"]
            summary = _work(workspace, command, arguments)
    except StudyError as error:
        return _complain(str(error), 2 if isinstance(error, RefusedError) else 1)
    except KeyboardInterrupt:
        return _complain("stopped; the same command resumes", 130)
    except SystemExit:
        return _complain("terminated; the same command resumes", 143)
    _print_outcome(summary, plan, paths)
    return 1 if summary.failures else 0


def _leads(plan: Plan, command: CommandConfig) -> bool:
    """Whether this machine leads: it has the study's stores, and the others follow it.

    Raises:
        RefusedError: this machine, or the layout of the ranks, cannot do what the command asks for.
    """
    try:
        check_machine(plan.study.resources, command)
        for batch_size in {cell.config.data.batch_size for cell in plan.cells}:
            plan.study.resources.check_batch(batch_size)
        return is_leader(plan.study.resources, command)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _follow(workspace: Workspace, command: CommandConfig) -> None:
    """Follow the machine that leads until the study ends."""
    from lina_lab.launch.follow import follow

    follow(rendezvous(workspace.launch_context(), command), display().line)


def _work(workspace: Workspace, command: CommandConfig, arguments: Sequence[str]) -> Summary:
    from lina_lab.study.pool import run_pool, worker_command
    from lina_lab.study.worker import run_study

    if command.workers > 1:
        return run_pool(workspace, command, worker_command(arguments), display())
    shown = display()
    launcher = launcher_for(workspace.launch_context(), command, shown.line)
    return run_study(workspace, launcher, shown, joins=command.action == "work")


def _store(workspace: Workspace) -> Store:
    name, runs = workspace.plan.study.name, workspace.runs
    if not workspace.folder.is_dir():
        raise StudyError(f"there is no study {name} under {runs}: run it first, or give paths.runs=FOLDER")
    with explained(runs):
        return Store(workspace)


def _status(workspace: Workspace, command: CommandConfig) -> int:
    store, console = _store(workspace), _console()
    if not console.is_terminal:
        console.print(_describe_status(store)[0], end="")
        return 0
    with Live(console=console, auto_refresh=False) as live:
        while True:
            text, working = _describe_status(store)
            live.update(text, refresh=True)
            if not working:
                return 0
            time.sleep(STATUS_SECONDS)


def _describe_status(store: Store) -> tuple[str, bool]:
    """The states as text, and whether any cell is running."""
    from lina_lab.study.plan import time_left
    from lina_lab.study.pool import running_now

    with explained(store.runs):
        states = store.states()
    summary, running = summarise(store.plan, states, []), running_now(store, states)
    lines = [f"{store.plan.study.name}: " + ", ".join(f"{count} {status}" for status, count in summary.counts.items())]
    lines += [f"  running  {cell.label}  {where}" for cell, where in running]
    ended = {cell.label: states[cell.config_hash] for cell in store.plan.cells if cell.config_hash in states}
    for status in (CellStatus.FAILED, CellStatus.DIVERGED, CellStatus.CANCELLED, CellStatus.INTERRUPTED):
        lines += [f"  {status}  {label}: {s.error}" for label, s in ended.items() if s.status is status]
    left = open_cells(store.plan, states)
    if left:
        lines.append(f"  left: {len(left)} cells" + time_left(store.workspace, left, len(running)))
    return "\n".join(lines) + "\n", bool(running)


def _retry(workspace: Workspace, command: CommandConfig) -> int:
    store = _store(workspace)
    with explained(store.runs):
        states = store.states()
        again = [
            cell
            for cell in _chosen(store.plan, command)
            if cell.config_hash in states and states[cell.config_hash].status in RETRIED
        ]
        store.enqueue([cell.config_hash for cell in again])
    return _list("queued again", again, "none of these cells has failed or was cancelled")


def _cancel(workspace: Workspace, command: CommandConfig) -> int:
    store = _store(workspace)
    with explained(store.runs):
        states = store.states()
        ended = [
            cell
            for cell in _chosen(store.plan, command)
            if cell.config_hash in states and states[cell.config_hash].status.open
        ]
        store.cancel([cell.config_hash for cell in ended])
    return _list("cancelled, or asked to end", ended, "none of these cells waits or runs")


def _chosen(plan: Plan, command: CommandConfig) -> list[Cell]:
    """The cells that the command names.

    Raises:
        StudyError: no cell has that name.
    """
    if not command.cells:
        return list(plan.cells)
    found = []
    for name in command.cells:
        matching = [cell for cell in plan.cells if cell.config_hash.startswith(name)]
        if not matching:
            raise StudyError(f"cells: no cell of the study begins with {name}; lina plan lists them")
        found += matching
    return found


def _list(what: str, cells: Sequence[Cell], nothing: str) -> int:
    console = _console()
    for cell in cells:
        console.print(f"{what}: {cell.config_hash} {cell.label}")
    if not cells:
        console.print(nothing)
    return 0


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)


def _print_outcome(summary: Summary, plan: Plan, paths: PathsConfig) -> None:
    console = _console()
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    console.print(f"{plan.study.name}: {counts}")
    if summary.overhead_seconds:
        mean = sum(summary.overhead_seconds) / len(summary.overhead_seconds)
        console.print(f"outside Trainer.fit: {mean:.2f} s for each cell, {max(summary.overhead_seconds):.2f} s at most")
    console.print(f"cells: {paths.runs}/{plan.study.name}   compare: lina ui{_where(paths)}")
    console.print(f"figures: lina plots study={plan.study.name}" + _where(paths))
    if summary.failures:
        for label, error in summary.failures.items():
            _complain(f"{label}: {error}", 1)
        _complain("the same command retries the failed cells", 1)


def _where(paths: PathsConfig) -> str:
    """Arguments of `lina plots` and `lina ui` that name the store."""
    runs = "" if paths.runs == PathsConfig().runs else f" {shlex.quote(f'runs={paths.runs}')}"
    return runs + ("" if paths.tracking_uri is None else f" {shlex.quote(f'tracking_uri={paths.tracking_uri}')}")


def _complain(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code
