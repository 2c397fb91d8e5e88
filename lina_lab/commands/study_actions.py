"""Actions of the study command that need the study's stores: run, work, status, retry and cancel."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.live import Live

from lina_lab.config import CommandConfig, PathsConfig
from lina_lab.config.grammar import refuse
from lina_lab.launch.select import is_leader, launcher_for, rendezvous
from lina_lab.records.status import CellStatus
from lina_lab.study.cells import CellState, open_cells
from lina_lab.study.display import display
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.preflight import problems
from lina_lab.study.rounds import grows, notes, phase
from lina_lab.study.store import RETRIED, Store
from lina_lab.study.summary import Summary, summarise
from lina_lab.study.versions import newest_version
from lina_lab.study.workspace import Workspace
from lina_lab.util.errors import RefusedError, StudyError, explained
from lina_lab.util.signals import stop_with_parent, stops_as_exceptions

STATUS_SECONDS = 2.0
OPEN = tuple(status for status in CellStatus if status.open)


def run_and_report(workspace: Workspace, paths: PathsConfig, command: CommandConfig, arguments: Sequence[str]) -> int:
    """Run an action and print its outcome.

    Args:
        workspace: the study's cells, and where results go.
        paths: where results go, as the command line says it.
        command: the action, and what trains.
        arguments: the command line, for the workers that are started with the same one.

    Returns:
        0 if no cell has failed, 1 if cells failed, tuning found no optimum or the environment stopped the study, 2 if
        this machine cannot do what the command asks for, 130 on Ctrl-C, 143 on SIGTERM.
    """
    try:
        with explained(workspace.runs), stops_as_exceptions():
            if command.action in ACTIONS:
                return ACTIONS[command.action](_store(workspace), command)
            if not _leads(workspace.plan, command):
                from lina_lab.launch.follow import follow

                follow(rendezvous(workspace.launch_context(), command), display().line)
                return 0
            corrects = command.action == "run"
            store = newest_version(workspace, corrects) if command.new_version else Store(workspace, corrects=corrects)
            if store.corrected:
                display().line(store.corrected)
            if command.new_version:
                arguments = [*arguments, f"study.name={store.plan.study.name}"]
            summary = _work(store, command, arguments)
    except StudyError as error:
        return refuse(error, 2 if isinstance(error, RefusedError) else 1)
    except KeyboardInterrupt:
        return refuse("stopped; the same command resumes", 130)
    except SystemExit:
        return refuse("terminated; the same command resumes", 143)
    _print_outcome(summary, store.plan, paths)
    return 1 if summary.failures or summary.stopped else 0


def _leads(plan: Plan, command: CommandConfig) -> bool:
    """Whether this machine leads: it has the study's stores, and the others follow it.

    Raises:
        RefusedError: this machine, the layout of the ranks or the data cannot do what the command asks for.
    """
    problem = next(problems(plan, command), None)
    if problem is not None:
        raise RefusedError(problem)
    try:
        return is_leader(plan.study.resources, command)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _work(store: Store, command: CommandConfig, arguments: Sequence[str]) -> Summary:
    from lina_lab.study.pool import run_pool, worker_command
    from lina_lab.study.worker import run_study

    if command.workers > 1:
        return run_pool(store, command, worker_command(arguments), display())
    stop_with_parent()
    shown = display()
    launcher = launcher_for(store.workspace.launch_context(), command, shown.line)
    return run_study(store, launcher, shown, joins=command.action == "work", other_code=command.other_code)


def _store(workspace: Workspace) -> Store:
    if not workspace.folder.is_dir():
        name, runs = workspace.plan.study.name, workspace.runs
        raise StudyError(f"there is no study {name} under {runs}: run it first, or give paths.runs=FOLDER")
    return Store(workspace)


def _status(store: Store, _: CommandConfig) -> int:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        print(_describe_status(store)[0], end="")
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

    states = store.states()
    running = running_now(store, states)
    store.adopt(states)
    lines = [_counts(store.plan, summarise(store.plan, states, []))]
    if grows(store.plan):
        lines += [f"  phase: {phase(store.plan)}", *(f"  {note}" for note in notes(store.plan))]
    lines += [f"  running  {cell.label}  {where}" for cell, where in running]
    for status in (CellStatus.FAILED, CellStatus.DIVERGED, CellStatus.CANCELLED, CellStatus.INTERRUPTED):
        ended = [cell for cell in store.plan.cells if _has(states, cell, (status,))]
        lines += [f"  {status}  {cell.label}: {states[cell.config_hash].error}" for cell in ended]
    left = open_cells(store.plan, states)
    if left:
        workspace = replace(store.workspace, plan=store.plan)
        lines.append(f"  left: {len(left)} cells" + time_left(workspace, left, len(running)))
    if store.plan.stopped:
        lines.append(f"  stopped: {store.plan.stopped}")
    return "\n".join(lines) + "\n", bool(running)


def _retry(store: Store, command: CommandConfig) -> int:
    nothing = "none of these cells has failed or was cancelled"
    return _change(store, command, RETRIED, store.enqueue, "queued again", nothing)


def _cancel(store: Store, command: CommandConfig) -> int:
    nothing = "none of these cells waits or runs"
    return _change(store, command, OPEN, store.cancel, "cancelled, or asked to end", nothing)


ACTIONS: dict[str, Callable[[Store, CommandConfig], int]] = {"status": _status, "retry": _retry, "cancel": _cancel}
"""Actions that read or change the store of a study that exists."""


def _change(
    store: Store,
    command: CommandConfig,
    statuses: Sequence[CellStatus],
    change: Callable[[list[str]], object],
    what: str,
    nothing: str,
) -> int:
    """Change the cells of some statuses that the command names, and list them."""
    states = store.states()
    cells = [cell for cell in _chosen(store.plan, command) if _has(states, cell, statuses)]
    change([cell.config_hash for cell in cells])
    print("\n".join(f"{what}: {cell.config_hash} {cell.label}" for cell in cells) or nothing)
    return 0


def _has(states: Mapping[str, CellState], cell: Cell, statuses: Sequence[CellStatus]) -> bool:
    state = states.get(cell.config_hash)
    return state is not None and state.status in statuses


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


def _counts(plan: Plan, summary: Summary) -> str:
    return f"{plan.study.name}: " + ", ".join(f"{count} {status}" for status, count in summary.counts.items())


def _print_outcome(summary: Summary, plan: Plan, paths: PathsConfig) -> None:
    print(_counts(plan, summary))
    if overhead := summary.overhead_seconds:
        mean = sum(overhead) / len(overhead)
        print(f"outside Trainer.fit: {mean:.2f} s for each cell, {max(overhead):.2f} s at most")
    print(f"cells: {paths.runs}/{plan.study.name}   compare: lina ui{_where(paths)}")
    print(f"figures: lina plots study={plan.study.name}{_where(paths)}", flush=True)
    for label, error in summary.failures.items():
        refuse(f"{label}: {error}")
    if summary.stopped:
        refuse(summary.stopped)
    elif summary.failures:
        refuse("the same command retries the failed cells")


def _where(paths: PathsConfig) -> str:
    """Arguments of `lina plots` and `lina ui` that name the store."""
    runs = "" if paths.runs == PathsConfig().runs else f" {shlex.quote(f'runs={paths.runs}')}"
    return runs + ("" if paths.tracking_uri is None else f" {shlex.quote(f'tracking_uri={paths.tracking_uri}')}")
