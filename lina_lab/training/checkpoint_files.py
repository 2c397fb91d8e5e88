"""How a checkpoint gets to the disk: whole or not at all, with its hash, at once or while training goes on."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, distributed

from lina_lab.config.checkpoint import CheckpointConfig
from lina_lab.model.shards import HASHES, ShardedCheckpoint, open_checkpoint
from lina_lab.records.checkpoints import Best, checkpoint_files, delete, write_best, write_hashes
from lina_lab.training.shard_files import split, write_shards
from lina_lab.util.compat.torch import save_file
from lina_lab.util.files import atomic, sha256

STATE = "Checkpoints"
"""Name of the state of `Checkpoints` in checkpoints, since version 0.1."""


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints for Lightning, on the first rank, and deletes those that the policy does not keep.

    Where the policy is `distributed`, all ranks call it, and each writes its shards first.

    Lightning's `AsyncCheckpointIO` keeps its copy on the device, lets any number of writes wait, and does not know when
    one has ended. Here the copy is in host memory, at most one write is under way, and a file gets its name, its hash
    and its place among those that stay when it is whole.

    Args:
        policy: what stays, and whether training goes on meanwhile.
        batch_size: images of a step.

    Raises:
        OSError: a file cannot be written. An asynchronous write raises it at the next one, or at the end.
    """

    def __init__(self, policy: CheckpointConfig, batch_size: int) -> None:
        self.policy, self.batch_size = policy, batch_size
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None
        self._group: distributed.ProcessGroup | None = None
        """What the writing ranks agree over: on the CPU, and apart from training, which may go on meanwhile."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.finish()
        if self.policy.distributed and self._group is None:
            group = distributed.new_group(backend="gloo")
            assert isinstance(group, distributed.ProcessGroup)
            self._group = group
        if not self.policy.asynchronous:
            self._write_parts(checkpoint, Path(path))
            return
        # Containers are made anew too: callbacks change theirs while the thread reads.
        copy = apply_to_collection(checkpoint, Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))
        self._thread = self._thread or ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing = self._thread.submit(self._write_parts, copy, Path(path))

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint whole, as a trial whose weights are not sharded needs it."""
        checkpoint = open_checkpoint(Path(path))
        if isinstance(checkpoint, ShardedCheckpoint):
            return dict(checkpoint)
        loaded: dict[str, Any] = super().load_checkpoint(path, *args, **options)
        return loaded

    def finish(self) -> None:
        """Wait for the write that is under way.

        Raises:
            OSError: it failed.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def teardown(self) -> None:
        """As `finish`, and no write follows. Lightning calls it when training ends, however it ends."""
        self.close()

    def close(self) -> None:
        """As `teardown`."""
        try:
            self.finish()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def _write_parts(self, checkpoint: dict[str, Any], path: Path) -> None:
        if self._group is not None:
            checkpoint, tensors = split(checkpoint)
            checkpoint[HASHES] = write_shards(tensors, path, self._group)
            if distributed.get_rank(self._group) > 0:
                return
        self._write(checkpoint, path)

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as draft:
            save_file(checkpoint, draft)
            digest = sha256(draft)
            # First: an older file of this name, which a trial that leaves writes again, has another hash for a moment.
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            # Before the file has its name: without a digest it would pass for a damaged one.
            write_hashes(path, digest, checkpoint.get(HASHES, {}))
        # What is written, not what training knows by now: the best checkpoint must be on the disk.
        noted = checkpoint["callbacks"][STATE].get("best")
        best = None if noted is None else Best(**noted)
        if best is not None:
            write_best(path.parent, best)
        # Newer ones than this are damaged, or training would have resumed from them; it overwrites them later.
        there = {
            step: file for step, file in checkpoint_files(path.parent).items() if step <= checkpoint["global_step"]
        }
        kept = self.policy.kept(there, self.batch_size, None if best is None else best.step)
        for step in there.keys() - kept:
            delete(there[step])
