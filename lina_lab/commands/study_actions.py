"""Actions of the study command that train: run and work."""

import shlex
from collections.abc import Callable, Sequence

from lina_lab.config import CommandConfig, PathsConfig
from lina_lab.config.grammar import refuse
from lina_lab.launch.machine import workers_of
from lina_lab.launch.select import is_leader, launcher_for, rendezvous
from lina_lab.records.status import CellStatus
from lina_lab.study.alerts import Alerts
from lina_lab.study.display import PlainDisplay, display
from lina_lab.study.grid import Plan
from lina_lab.study.preflight import problems
from lina_lab.study.store import Store
from lina_lab.study.summary import Summary
from lina_lab.study.versions import newest_version
from lina_lab.study.workspace import Workspace
from lina_lab.util.errors import RefusedError, StudyError, explained, first_line
from lina_lab.util.signals import TimeLimit, stop_reason, stop_with_parent, stops_as_exceptions


def run_and_report(workspace: Workspace, paths: PathsConfig, command: CommandConfig, arguments: Sequence[str]) -> int:
    """Run an action and print its outcome.

    Args:
        workspace: the study's cells, and where results go.
        paths: where results go, as the command line says it.
        command: the action, and what trains.
        arguments: the command line, for the workers that are started with the same one.

    Returns:
        0 if every cell has a result or was pruned, 1 if cells failed or were cancelled (also at their time limit),
        tuning found no optimum, `max_minutes` have passed or the environment stopped the study, 2 if this machine
        cannot do what the command asks for, 130 on Ctrl-C, 143 on SIGTERM.
    """
    limit = TimeLimit(command.max_minutes)
    try:
        with explained(workspace.runs), stops_as_exceptions(), limit:
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
            summary = _alerted(store, command, arguments)
    except StudyError as error:
        return refuse(error, 2 if isinstance(error, RefusedError) else 1)
    except KeyboardInterrupt:
        return refuse("stopped; the same command resumes", 130)
    except SystemExit:
        if limit.passed:
            return refuse(f"stopped at max_minutes={command.max_minutes:g}; the same command resumes", 1)
        return refuse("terminated; the same command resumes", 143)
    _print_outcome(summary, store.plan, paths)
    return 0 if _well(summary) else 1


def _well(summary: Summary) -> bool:
    """Whether every cell has a result or was pruned."""
    return not (summary.failures or summary.stopped or summary.counts.get(CellStatus.CANCELLED))


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


def _alerted(store: Store, command: CommandConfig, arguments: Sequence[str]) -> Summary:
    """Work on the study, and alert when cells end; also at the end of this command, if it runs the whole study."""
    shown = display()
    alerts = Alerts(command.alerts, store.plan.study, store.folder, shown.line)
    store.ended = alerts.note
    ended = alerts.study_ended if command.action == "run" else lambda *_: None
    try:
        with explained(store.runs):
            summary = _work(store, command, arguments, shown, alerts.send)
    except RefusedError:
        raise
    except BaseException as error:
        ended(CellStatus.INTERRUPTED, first_line(error) if isinstance(error, Exception) else stop_reason(error))
        raise
    sentences = [_counts(store.plan, summary), *([summary.stopped] if summary.stopped else [])]
    ended(CellStatus.DONE if _well(summary) else CellStatus.FAILED, "; ".join(sentences))
    return summary


def _work(
    store: Store, command: CommandConfig, arguments: Sequence[str], shown: PlainDisplay, after: Callable[[], None]
) -> Summary:
    joins = command.action == "work"
    workers = workers_of(command, store.plan.study.resources, store.workspace.data_workers)
    # A command that joins is one worker, unless it says otherwise.
    if workers > 1 and not (joins and command.workers is None):
        from lina_lab.study.pool import run_pool, worker_command

        return run_pool(store, command, workers, worker_command(arguments), shown)
    # Imports MLflow, which takes a second.
    from lina_lab.study.worker import run_study

    stop_with_parent()
    launcher = launcher_for(store.workspace.launch_context(), command, shown.line)
    return run_study(store, launcher, shown, joins=joins, other_code=command.other_code, after=after)


def _counts(plan: Plan, summary: Summary) -> str:
    return f"{plan.study.name}: " + ", ".join(f"{count} {status}" for status, count in summary.counts.items())


def _print_outcome(summary: Summary, plan: Plan, paths: PathsConfig) -> None:
    print(_counts(plan, summary))
    if pruned := summary.counts.get(CellStatus.PRUNED):
        rule = f" by study.pruning.rule={plan.study.pruning.rule}" if plan.study.pruning is not None else ""
        print(f"{pruned} cells were given up{rule} and have no result; they stay so")
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
    elif cancelled := summary.counts.get(CellStatus.CANCELLED):
        refuse(f"{cancelled} cells were cancelled and have no result; the same command tries them again")


def _where(paths: PathsConfig) -> str:
    """Arguments of `lina plots` and `lina ui` that name the store."""
    runs = "" if paths.runs == PathsConfig().runs else f" {shlex.quote(f'runs={paths.runs}')}"
    return runs + ("" if paths.tracking_uri is None else f" {shlex.quote(f'tracking_uri={paths.tracking_uri}')}")
