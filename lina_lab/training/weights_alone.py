"""What a finished cell may keep of a checkpoint: raw and averaged weights, without the optimizer's state."""

import re
from pathlib import Path

from lina_lab.model.shards import open_checkpoint
from lina_lab.records.checkpoints import delete, digest_file, is_whole, known_as, weights_file
from lina_lab.util.compat.torch import save_file
from lina_lab.util.files import atomic, sha256, write_atomically

LEFT_OUT = ("optimizer_states", "lr_schedulers", "loops")
"""Entries of a checkpoint that only training reads."""


def keep_weights_alone(checkpoint: Path) -> Path:
    """Write the weights of a checkpoint to a file of their own, and remove the checkpoint.

    Trials that start from the checkpoint know it by its hash, which is noted beside the new file's own.

    Args:
        checkpoint: a whole one.

    Returns:
        The file.

    Raises:
        ValueError: the checkpoint is damaged; it stays.
        OSError: the file cannot be written; the checkpoint stays.
    """
    name = re.fullmatch(r"step-(\d+)\.ckpt", checkpoint.name)
    if name is None or not is_whole(checkpoint):
        raise ValueError(f"{checkpoint} is no whole checkpoint of a trial: it stays as it is")
    path = weights_file(checkpoint.parent, int(name[1]))
    saved = open_checkpoint(checkpoint)
    with atomic(path) as draft:
        save_file({part: saved[part] for part in saved if part not in LEFT_OUT}, draft)
        write_atomically(digest_file(path), f"{sha256(draft)}\n{known_as(checkpoint)}\n")
    delete(checkpoint)
    return path
