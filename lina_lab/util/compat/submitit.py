"""submitit 1.5: the batch file of a job that is not submitted.

Public: `SlurmExecutor.submit`, which writes the file and submits it. Missing: to show the file alone.
"""

import shlex
import sys
from pathlib import Path
from typing import Any


def batch_script(folder: Path, parameters: dict[str, Any], python: str | None = None) -> str:
    """The batch file of a job (`_make_sbatch_string`), which runs the module `submitit.core._submit`.

    Args:
        folder: of the job's logs.
        parameters: as `SlurmExecutor.update_parameters` takes them.
        python: the command that starts Python, as `SlurmExecutor` takes it; None: this one.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    module = shlex.join(["-u", "-m", "submitit.core._submit", str(folder)])
    command = f"{shlex.quote(sys.executable) if python is None else python} {module}"
    text: str = _make_sbatch_string(command=command, folder=str(folder), **parameters)
    return text
