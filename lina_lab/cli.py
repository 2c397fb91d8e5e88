"""The console script `lina`: finds the command by its name, and imports nothing else."""

import difflib
import os
import select
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TextIO

STUDY = "lina_lab.commands.study"
"""Module of the study command, whose actions are commands too."""

COMMANDS: dict[str, tuple[str, str]] = {
    "run": (STUDY, "run every cell of a study that is not done"),
    "plan": (STUDY, "list the cells of a study, with their cost; nothing starts"),
    "status": (STUDY, "show the state of a study's cells"),
    "work": (STUDY, "join a running study as one more worker"),
    "retry": (STUDY, "queue failed and cancelled cells again"),
    "cancel": (STUDY, "cancel cells that wait or run"),
    "prune": (STUDY, "delete the checkpoints that a study's cells keep no longer"),
    "plots": ("lina_lab.analysis.plots", "draw a study's figures and tables, and write its report"),
    "paper": ("lina_lab.analysis.paper", "write the paper's tables, ours next to theirs"),
    "fit": ("lina_lab.analysis.fit", "fit scaling laws to any project's table or MLflow store"),
    "ui": ("lina_lab.commands.ui", "open MLflow's user interface on the run store"),
    "sample": ("lina_lab.commands.sample", "generate images with a trained model"),
    "evaluate": ("lina_lab.commands.evaluate", "measure the quality of images (FID and others)"),
    "inspect": ("lina_lab.commands.inspect", "look at a trained model's attentions, block by block and head by head"),
    "geneval": ("lina_lab.analysis.geneval", "compute GenEval's score from the official tool's files"),
    "check": ("lina_lab.commands.check", "check whether pictures of shapes show what their captions ask for"),
    "shapes": ("lina_lab.commands.shapes", "write captioned pictures of shapes as files"),
    "cache": ("lina_lab.commands.cache", "encode images to shards of latents"),
    "convert": ("lina_lab.commands.convert", "convert the authors' weights to a model folder"),
    "count": ("lina_lab.commands.count", "count a model's parameters and operations"),
    "coordinates": ("lina_lab.commands.coordinates", "check that activations keep their size over widths under muP"),
}
"""Name -> module and summary. The module exports `COMMAND`; nothing of it is imported before it is chosen."""

HELP = """\
Ablation and scaling studies of LINA, a linear-attention image generator.

  lina COMMAND [field=value ...]
  lina COMMAND --help

Commands
{commands}

Start with: lina plan study=normalization_scaling
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command's name and its fields; None: those of this process.

    Returns:
        0 if the command did its work, 1 if cells failed or were cancelled or the environment stopped it, 2 after one
        sentence on what is wrong with the arguments, 130 or 143 if Ctrl-C or SIGTERM stopped it.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = _run(name, rest)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _unread(sys.stdout):
            raise  # another pipe's: what was to be done is not done
        # As in `lina sample --help | head -1`. What is left in the buffer must not raise again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _unread(stream: TextIO) -> bool:
    """Whether nobody reads what is written to a pipe any more."""
    look = select.poll()
    look.register(stream, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in look.poll(0))


def _run(name: str, rest: list[str]) -> int:
    if name in ("-h", "--help", "help"):
        commands = "\n".join(f"  {known:9} {summary}" for known, (_, summary) in COMMANDS.items())
        print(HELP.format(commands=commands), end="")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        print(f"error: there is no command {name}; {hint}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[name]
    if module == STUDY and name != "run":  # `lina plan ...` is `lina run ... action=plan`
        if given := next((argument for argument in rest if argument.startswith("action=")), None):
            print(f"error: lina {name} is action={name}: leave {given} out", file=sys.stderr)
            return 2
        if not {"-h", "--help"} & set(rest):  # which is one text, and needs no Hydra to read arguments
            rest.insert(0, f"action={name}")
    from lina_lab.util.imports import gc_paused
    from lina_lab.util.signals import dropped_stops_come_again

    with dropped_stops_come_again():
        with gc_paused():
            command = import_module(module).COMMAND
        return int(command.main(rest))


if __name__ == "__main__":
    sys.exit(main())
