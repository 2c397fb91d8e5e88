"""A checkpoint with shards is read as a whole one, and is whole when all of its shards are."""

import pickle
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from lina_lab.config import ResourcesConfig, TrialConfig
from lina_lab.config.cautions import unsharded
from lina_lab.evaluation.weights import load_trained
from lina_lab.model.shards import HASHES, open_checkpoint
from lina_lab.records.checkpoints import bytes_of, checkpoint_files, delete, is_whole, shard_hashes, shards_folder
from lina_lab.records.record import begin_attempt
from lina_lab.records.weights import locate
from lina_lab.training.checkpoints import newest
from lina_lab.training.shard_files import split, write_shards
from lina_lab.training.weights_alone import keep_weights_alone
from lina_lab.util.compat.torch_checkpoint import METADATA
from tests.training.old_checkpoints import load
from tests.training.sharded import shard
from tests.training.test_resume import assert_same_state

Tiny = Callable[..., TrialConfig]
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def cell(source: Path, tmp_path: Path) -> Path:
    """The folder of a finished trial with two checkpoints, of which the newest has shards."""
    folder = tmp_path / "study" / "cell"
    shutil.copytree(source, folder)
    shard(max(checkpoint_files(folder).values()))
    return folder


def last(folder: Path) -> Path:
    return max(checkpoint_files(folder).values())


def damage(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")


def test_readers_find_the_tensors_of_a_whole_checkpoint(source: Path, cell: Path) -> None:
    whole, sharded = load(last(source)), open_checkpoint(last(cell))
    assert sharded.keys() == whole.keys()
    for part in ("state_dict", "current_model_state", "optimizer_states", "loops"):
        assert_same_state(sharded[part], whole[part], part)
    for which in ("ema", "raw"):
        one, other = (load_trained(folder, which).model.state_dict() for folder in (source, cell))  # type: ignore[arg-type]
        assert_same_state(one, other, which)


def test_weights_alone_are_whole_and_known_by_the_hash_of_their_checkpoint(source: Path, cell: Path) -> None:
    path = last(cell)
    before = locate(str(path)).sha256
    alone = keep_weights_alone(path)
    assert locate(str(path)).sha256 == before
    assert not shards_folder(path).exists()
    saved = load(alone)
    assert HASHES not in saved
    assert_same_state(saved["state_dict"], load(last(source))["state_dict"], "state_dict")
    assert load_trained(path).sha256 == before


@pytest.mark.parametrize("harm", [damage, Path.unlink], ids=["damaged", "missing"])
@pytest.mark.parametrize("name", ["__0_0.distcp", METADATA])
def test_without_one_of_its_shards_it_is_not_whole_and_the_one_before_is_taken(
    cell: Path, harm: Callable[[Path], Any], name: str
) -> None:
    older, path = checkpoint_files(cell).values()
    assert is_whole(path)
    harm(shards_folder(path) / name)
    assert not is_whole(path)
    found, problems = newest(cell)
    assert (found and found.path, len(problems)) == (older, 1)
    with pytest.raises(ValueError, match=f"{path.name} is not a whole checkpoint of a trial: .*shard"):
        load_trained(path)
    with pytest.raises(ValueError, match="it stays as it is"):
        keep_weights_alone(path)
    assert locate(str(cell)).path == (older if harm is Path.unlink else path)


def test_a_copy_without_the_hashes_beside_it_is_still_verified(cell: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / last(cell).name
    copy.parent.mkdir()
    shutil.copy(last(cell), copy)
    with pytest.raises(ValueError, match="is not what was written"):
        load_trained(copy)
    shutil.copytree(shards_folder(last(cell)), shards_folder(copy))
    load_trained(copy)
    damage(shards_folder(copy) / "__0_0.distcp")
    with pytest.raises(ValueError, match=r"__0_0.distcp is not what was written"):
        load_trained(copy)


def test_it_is_deleted_with_its_shards(cell: Path) -> None:
    path = last(cell)
    shards = shard_hashes(path)
    assert bytes_of(path) == path.stat().st_size + sum(shard.stat().st_size for shard in shards)
    assert {shard.parent for shard in shards} == {shards_folder(path)}
    delete(path)
    assert not list(cell.glob(f"{path.name}*"))


def test_an_attempt_that_begins_anew_removes_shards_too(cell: Path) -> None:
    (cell / "curve.jsonl").unlink(missing_ok=True)
    (cell / "mlflow_run.txt").write_text("another")
    begin_attempt(cell, "run")
    assert not list(cell.glob("step-*"))


class Code:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('ran')",))


def test_metadata_that_bring_code_with_them_are_refused(cell: Path) -> None:
    (shards_folder(last(cell)) / METADATA).write_bytes(pickle.dumps(Code()))
    with pytest.raises(ValueError, match=r"builtins.exec is no part of a checkpoint's metadata"):
        open_checkpoint(last(cell))["state_dict"]


def test_whole_weights_have_no_shards_to_write(tiny: Tiny) -> None:
    config = tiny(checkpoint={"distributed": True})
    sentence = unsharded(config, ResourcesConfig())
    assert sentence is not None
    assert sentence.startswith("checkpoint.distributed=true writes shards, and study.resources.strategy=ddp has none")
    assert unsharded(config, ResourcesConfig(devices=2, strategy="fsdp")) is None


@pytest.fixture
def group() -> Iterator[distributed.ProcessGroup]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.new_group(backend="gloo")
    distributed.destroy_process_group()


@pytest.fixture
def sharded(group: distributed.ProcessGroup) -> dict[str, DTensor]:
    weights = distribute_tensor(torch.arange(12.0).reshape(4, 3), init_device_mesh("cpu", (1,)), [Shard(0)])
    return split({"state": {"weights": weights, "step": torch.tensor(3)}, "epoch": 1})[1]


def test_the_ranks_write_shards_that_take_the_place_of_older_ones(
    tmp_path: Path, group: distributed.ProcessGroup, sharded: dict[str, DTensor]
) -> None:
    path = tmp_path / "step-00000003.ckpt"
    assert list(sharded) == ["state/weights"]
    draft = tmp_path / "step-00000003.ckpt.shards.draft"
    draft.mkdir()
    (draft / "__7_0.distcp").touch()
    first = write_shards(sharded, path, group)
    path.touch()
    second = write_shards(sharded, path, group)
    assert first.keys() == second.keys() == {"__0_0.distcp", METADATA}
    assert [each.name for each in tmp_path.iterdir()] == ["step-00000003.ckpt.shards"]
    assert {each.name for each in shards_folder(path).iterdir()} == second.keys()
    assert str(tmp_path).encode() not in (shards_folder(path) / METADATA).read_bytes()


def test_a_full_disk_is_one_sentence_and_leaves_no_draft(
    tmp_path: Path, group: distributed.ProcessGroup, sharded: dict[str, DTensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystem, "create_stream", lambda *_: Full())
    with pytest.raises(OSError, match=r"rank 0 cannot write its shards of step-3.ckpt: .*No space left") as caught:
        write_shards(sharded, tmp_path / "step-3.ckpt", group)
    assert caught.value.errno == 28
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
