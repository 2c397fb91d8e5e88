"""torch 2.14: `torch.distributed.checkpoint` reads its metadata as any pickle, and hides why a file was not written.

Public: a reader and a writer of a folder of shards. Missing: a reader that runs no code which a folder brings with it,
the system's error where the disk is full, and hashes of what was written.
"""

import pickle
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.futures import Future

from lina_lab.util.files import sha256

METADATA = ".metadata"
"""File in a folder of shards that says where in them each tensor is."""
KNOWN = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}
"""What metadata consist of, beside types of numbers."""


class ShardReader(FileSystemReader):
    """Reads shards, and of their metadata plain data alone.

    Args:
        folder: the shards.

    Raises:
        OSError: there are no metadata.
        pickle.UnpicklingError: they hold something else.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with (folder / METADATA).open("rb") as file:
            self.metadata: Metadata = _PlainUnpickler(file).load()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self.metadata


class ShardWriter(FileSystemWriter):
    """Writes this rank's shards to one file, and notes the hash of each file that this rank wrote.

    Args:
        folder: where to.

    Raises:
        OSError: a file cannot be written. `torch.distributed.checkpoint.save` makes it an error of all ranks.
    """

    def __init__(self, folder: Path) -> None:
        # One tensor after the other: what copies ahead takes a stream of the thread's device, which is the first one.
        super().__init__(folder, per_thread_copy_ahead=0)
        self.folder = folder
        self.hashes: dict[str, str] = {}

    def storage_meta(self) -> StorageMeta:
        """Without the folder's name, which changes."""
        return StorageMeta(save_id=self.save_id)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[Any]:
        try:
            written = super().write_data(plan, planner)
        except RuntimeError as error:
            # As in `save_file`.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
        for name in sorted({result.storage_data.relative_path for result in written.wait()}):
            self.hashes[name] = sha256(self.folder / name)
        return written

    def finish(self, metadata: Metadata, results: Any) -> None:
        super().finish(metadata, results)
        self.hashes[METADATA] = sha256(self.folder / METADATA)


def _member(kind: Any, name: str) -> Any:
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        raise pickle.UnpicklingError(f"{name} of {kind} is no part of a checkpoint's metadata")
    return kind[name]


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in KNOWN.get(module, ()) or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            # Python 3.11 pickles a member of an enumeration as an attribute of it.
            return _member
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a checkpoint's metadata")
