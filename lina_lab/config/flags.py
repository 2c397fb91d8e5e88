"""Flags of the study command: ours, and what Hydra's other ones are here."""

import argparse
import typing
from collections.abc import Sequence
from pathlib import Path

from lina_lab.util.errors import ConfigError

FOREIGN = {
    ("--config-path", "-cp"): "write --config-dir FOLDER",
    ("--config-name", "-cn"): "write study=NAME, or study=FILE.yaml",
    ("--info", "-i"): "--cfg job prints the configuration, and --help lists the fields",
    ("--package", "-p"): "--cfg job prints the whole configuration",
    ("--run", "-r"): "leave it out, lina run runs",
    ("--hydra-help",): "write --help",
    ("--shell-completion", "-sc"): "there is no completion, and --help lists the fields",
    ("--experimental-rerun",): "the same command resumes every cell from its last checkpoint",
}
"""Hydra's flags that this command does not have -> what to do."""
VALUES = {
    "--cfg": "--cfg takes one word, as in --cfg job: it prints the configuration and runs nothing",
    "--config-dir": "--config-dir needs a folder, as in --config-dir FOLDER",
}
"""Flags that take a value -> what to write."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        flag = next((flag for flag in VALUES if flag in message), None)
        if flag is not None:
            raise ConfigError(VALUES[flag])
        # argparse's only other refusal here: "argument --json: ignored explicit argument '3'".
        raise ConfigError(f"{message.removeprefix('argument ').partition(':')[0]} takes no value")


def read_flags(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags of a command line, and its other arguments.

    Raises:
        ConfigError: a flag of Hydra's that is not here, or a value that a flag does not take.
    """
    hydras = {flag: how for flags, how in FOREIGN.items() for flag in flags}
    for argument in arguments:
        if (flag := argument.partition("=")[0]) in hydras:
            raise ConfigError(f"{argument} is not understood: {hydras[flag]}")
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job"])
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_known_args(list(arguments))
