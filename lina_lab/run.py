"""`python -m lina_lab.run study=NAME [field=value ...]` is `lina run study=NAME [field=value ...]`."""

import sys
from collections.abc import Sequence

from lina_lab import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study; returns the exit code, see `lina_lab.cli.main`.

    Args:
        arguments: flags and overrides of the study command; None: those of this process.
    """
    return cli.main(["run", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    sys.exit(main())
