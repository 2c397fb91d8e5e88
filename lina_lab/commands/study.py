"""Run every cell of a study that is not done. The same command again resumes.

  lina run study=NAME [field=value ...]

lina plan and work take the same arguments; lina plan is lina run with action=plan, and so on.
lina status, retry, cancel and prune read the stores, and take a study by its name alone; the other fields that the
study was run with may be left out. lina status without study=NAME shows all studies of the folder of runs.
A field that an axis varies is fixed by a value. Other values to compare are an axis, a changed or a new one:
  'study.axes.size={model.dim:[16,32]}'

Groups
  study=NAME: the question
  task=NAME: the same question for another task; t2i is text to image
  scale=NAME: the same question with the sizes, data and resources of another scale
  size=NAME: the model's fields for one size
  data=NAME: the data set, as data.name=NAME; with data=shards data.path=FOLDER the shape of latents, the number of
    classes and the size of texts are those of the shards, unless they are set

Studies of your own lie in ./studies or in the folder of --config-dir, in Hydra's layout: study/NAME.yaml with
`# @package _global_` as its first line. One starts from another with `defaults: [kv_gate, _self_]`. What it changes
in a task or a scale lies in study_task/NAME_TASK.yaml and study_scale/NAME_SCALE.yaml.

Flags
  --cfg job [--resolve]: print the configuration, and run nothing
  --config-dir FOLDER: search this folder first
  --json: with lina status, write the state as JSON for programs
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lina_lab.config import CommandConfig, TrialConfig
from lina_lab.config.command_line import CommandLine
from lina_lab.config.fields import SECTIONS
from lina_lab.config.grammar import fields_help, refuse, shown
from lina_lab.config.options import GROUPS, Options
from lina_lab.util.errors import ConfigError
from lina_lab.util.imports import gc_paused

if TYPE_CHECKING:
    from lina_lab.study.workspace import Workspace

STORED = ("status", "retry", "cancel", "prune")
"""Actions for which the stores are enough."""


class StudyCommand:
    """A command whose configuration Hydra composes."""

    def main(self, arguments: Sequence[str]) -> int:
        """Do what the command line says.

        Args:
            arguments: flags and overrides.

        Returns:
            0 if every cell of the plan has a result, 1 if cells failed or were cancelled (also at their time limit) or
            `max_minutes` or the environment stopped the study, 2 if the configuration or the data are wrong and nothing
            was started, or a plan shows what would be refused so, 130 or 143 if Ctrl-C or SIGTERM stopped it.
        """
        try:
            line = CommandLine(arguments)
            if line.flags.help:
                print(study_help(line.options))
                return 0
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            return refuse(error)
        return _act(line, arguments)


COMMAND = StudyCommand()


def _act(line: CommandLine, arguments: Sequence[str]) -> int:
    # Hydra and what makes cells take half a second to import, which help does without.
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lina_lab.config.compose import compose, composed

    try:
        if line.flags.cfg:
            print(OmegaConf.to_yaml(composed(line), resolve=line.flags.resolve), end="")
            return 0
        if line.action in STORED:
            # Neither Lightning nor torch, pandas or MLflow, which take seconds and a GiB to import.
            from lina_lab.commands.stored_study import main

            return main(line)
        if line.flags.json:
            raise ConfigError("--json is for lina status")
        found = compose(line)
        from lina_lab.study.fitting import fields_of_data
        from lina_lab.study.grid import make_plan
        from lina_lab.study.points import with_values
        from lina_lab.study.rounds import grown
        from lina_lab.study.workspace import Workspace

        decided = fields_of_data(found.base, found.fixed)
        base = with_values(found.base, decided)
        plan = grown(make_plan(found.study, base, found.overridden, found.paths.folder), {})
        workspace = Workspace.of(plan, found.paths)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, OmegaConfBaseException) as error:
        return refuse(error)
    if found.command.action == "plan":
        return _plan(workspace, found.command, decided)
    # Optuna and MLflow take seconds to import: not before the configuration is right.
    with gc_paused():
        from lina_lab.commands.study_actions import run_and_report

    return run_and_report(workspace, found.paths, found.command, arguments)


def study_help(options: Options) -> str:
    """What the command does; studies with their questions, the options of the other groups, and fields."""
    groups = [f"  {group}: {', '.join(options.names(group))}" for group in GROUPS if group != "study"]
    fields = [fields_help(cls, f"{name}.") for name, cls in SECTIONS.items()]
    fields = [fields_help(CommandConfig), *fields, fields_help(TrialConfig)]
    sections = {"Studies": options.questions(), "Options of the other groups": groups, "Fields": fields}
    listed = ["\n".join([title, *lines]) for title, lines in sections.items()]
    return "\n\n".join([(__doc__ or "").strip(), *listed])


def _plan(workspace: "Workspace", command: CommandConfig, decided: Mapping[str, Any]) -> int:
    from lina_lab.launch.machine import layout_cautions, workers_of
    from lina_lab.launch.slurm import time_cautions
    from lina_lab.study.plan import describe
    from lina_lab.study.preflight import problem_of_store, problems
    from lina_lab.study.speed import speed_of

    workers = workers_of(command, workspace.plan.study.resources, workspace.data_workers)
    print(describe(workspace, workers), end="")
    if decided:
        print(f"By its data: {', '.join(f'{name}={shown(value)}' for name, value in decided.items())}.")
    if command.launcher != "local":
        from lina_lab.launch.select import describe_launch
        from lina_lab.util.errors import StudyError

        try:
            print(describe_launch(workspace.launch_context(), command, workspace.plan.cells[0].config_hash))
        except StudyError as error:
            return refuse(error)
    loaders = workspace.data_workers
    resources, speed = workspace.plan.study.resources, speed_of(workspace)
    for caution in layout_cautions(resources, command, loaders):
        print(caution)
    if speed is not None:
        longest = max((speed.seconds(cell, resources) for cell in workspace.plan.cells), default=0.0)
        for caution in time_cautions(command, resources, longest):
            print(caution)
    found = [*problems(workspace.plan, command), None if command.new_version else problem_of_store(workspace)]
    refused = [problem for problem in found if problem is not None]
    for problem in refused:
        refuse(f"lina run would refuse this: {problem}")
    return 2 if refused else 0
