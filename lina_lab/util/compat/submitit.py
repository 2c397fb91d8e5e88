"""submitit 1.5: the batch file of a job that is not submitted.

Public: `SlurmExecutor.submit`, which writes the file and submits it. Missing: to show the file alone.
"""

import shlex
import sys
from pathlib import Path
from typing import Any


def batch_script(folder: Path, parameters: dict[str, Any]) -> str:
    """The batch file of a job (`_make_sbatch_string`), which runs the module `submitit.core._submit`.

    Args:
        folder: of the job's logs.
        parameters: as `SlurmExecutor.update_parameters` takes them.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    command = shlex.join([sys.executable, "-u", "-m", "submitit.core._submit", str(folder)])
    text: str = _make_sbatch_string(command=command, folder=str(folder), **parameters)
    return text
