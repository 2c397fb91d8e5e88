#!/usr/bin/env bash
# `except Exception` around torch.distributed.checkpoint (torch 2.14.1).
#
# Expected: where a checkpoint cannot be written, here because a file lies where its folder should be, `save` raises an
# error that `except Exception` catches, as torch.save does, so that training can go on without this checkpoint.
# Seen: `save` and `load` raise CheckpointException, which derives from BaseException, as KeyboardInterrupt does, and
# passes `except Exception`. The error of the system is an entry of its `failures`, and no `except OSError` sees it.
# Of a folder that is absent, `load` holds an AssertionError; that there is no such file is only logged.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
cd "$folder"
cat > check.py <<'PYTHON'
import logging
import warnings
from pathlib import Path

import torch
from torch.distributed import checkpoint

warnings.filterwarnings("ignore", "torch.distributed is disabled.*")
logging.disable()
state = {"weight": torch.ones(3)}
checkpoint.save(state, checkpoint_id="good", no_dist=True)
Path("occupied").write_text("a file\n")


def attempt(what):
    try:
        what()
    except Exception as error:
        return f"caught: {type(error).__name__}"
    except BaseException as error:
        (cause, _), *_ = error.failures.values()
        return f"passed `except Exception`: {type(error).__name__} with {type(cause).__name__}"
    return "no error"


found = [
    attempt(lambda: torch.save(state, "occupied/file.pt")),
    attempt(lambda: checkpoint.save(state, checkpoint_id="occupied", no_dist=True)),
    attempt(lambda: checkpoint.load(state, checkpoint_id="absent", no_dist=True)),
]
print(torch.__version__, *found, sep="\n")
assert found[0].startswith("caught: "), found
assert found[1].startswith("passed `except Exception`: CheckpointException with FileExistsError"), found
assert found[2].startswith("passed `except Exception`: CheckpointException with AssertionError"), found
PYTHON
"$folder/venv/bin/python" check.py
