"""The command: `python -m lina_lab.run study=NAME [field=value ...]`.

Composes the configuration with Hydra, types it once, and hands it on.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lina_lab.config import CommandConfig, PathsConfig
from lina_lab.config.compose import check_overrides, convert, overridden_fields, register_configs, sentence
from lina_lab.config.studies import ConfigError
from lina_lab.study.grid import Plan
from lina_lab.util.imports import gc_paused


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code.

    0: every cell of the plan is done. 1: cells failed, or the environment stopped the study. 2: the configuration is
    wrong, and nothing was started. 130, 143: stopped by Ctrl-C or SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Hydra then raises what it finds wrong, instead of printing it and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        plan, paths, command = _compose(arguments)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    except (ConfigError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # Optuna and MLflow take seconds to import: not before the configuration is right, and not for a plan.
    if command.action == "plan":
        from lina_lab.study.plan import describe

        print(describe(plan, Path(paths.runs)), end="")
        if command.launcher != "local":
            from lina_lab.launch.select import describe_launch
            from lina_lab.study.errors import StudyError

            try:
                print(describe_launch(plan, paths, command))
            except StudyError as error:
                print(f"error: {error}", file=sys.stderr)
                return 2
        return 0
    with gc_paused():
        from lina_lab.commands.study import run_and_report

    return run_and_report(plan, paths, command, arguments)


def _compose(arguments: list[str]) -> tuple[Plan, PathsConfig, CommandConfig]:
    """What Hydra makes of the command line, typed. A flag such as --help is answered by Hydra, which then exits."""
    found: list[DictConfig] = []

    check_overrides(arguments)
    register_configs(arguments)
    sys.argv = [sys.argv[0], *arguments]
    hydra.main(version_base="1.3", config_path=None, config_name="config")(found.append)()
    if not found:
        sys.exit(0)
    data = cast(dict[str, Any], OmegaConf.to_container(found[0], resolve=True))
    return convert(data, overridden_fields(arguments))


if __name__ == "__main__":
    sys.exit(main())
