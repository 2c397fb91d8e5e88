"""The study command: runs a plan, tells the person at the terminal, and makes an exit code of it."""

import shlex
import sys

from rich.console import Console

from lina_lab.config import PathsConfig
from lina_lab.study.errors import StudyError
from lina_lab.study.grid import Plan
from lina_lab.study.launch import in_this_process
from lina_lab.study.progress import display
from lina_lab.study.worker import Summary, run_study


def run_and_report(plan: Plan, paths: PathsConfig) -> int:
    """Run the study; 0 if every cell came to a result, 1 if not, 130 on Ctrl-C, 143 on SIGTERM."""
    try:
        summary = run_study(plan, paths, in_this_process, display())
    except StudyError as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return _complain("stopped; finished cells are kept, and the same command goes on from here", 130)
    except SystemExit:
        return _complain("terminated; finished cells are kept, and the same command goes on from here", 143)
    _tell(summary, plan, paths)
    return 1 if summary.failures else 0


def _tell(summary: Summary, plan: Plan, paths: PathsConfig) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    counts = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    console.print(f"{plan.study.name}: {counts}")
    if summary.overhead_seconds:
        mean = sum(summary.overhead_seconds) / len(summary.overhead_seconds)
        console.print(f"outside Trainer.fit: {mean:.2f} s a cell, at most {max(summary.overhead_seconds):.2f} s")
    console.print(f"cells: {paths.runs}/{plan.study.name}   compare: make ui")
    console.print(f"figures: python analysis/plots.py study={plan.study.name}" + _where(paths))
    if summary.failures:
        for label, error in summary.failures.items():
            _complain(f"{label}: {error}", 1)
        _complain("the same command tries the failed cells again", 1)


def _where(paths: PathsConfig) -> str:
    """The arguments of the figures' command that say where the store is."""
    runs = "" if paths.runs == PathsConfig().runs else f" {shlex.quote(f'runs={paths.runs}')}"
    return runs + ("" if paths.tracking_uri is None else f" {shlex.quote(f'tracking_uri={paths.tracking_uri}')}")


def _complain(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code
