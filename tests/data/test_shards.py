"""Shards of latents are read by any number of ranks in one order, and refused where they are damaged."""

import json
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lina_lab.commands.cache import COMMAND as CACHE
from lina_lab.commands.sample import COMMAND as SAMPLE
from lina_lab.data import make_data
from lina_lab.data.order import RankLayout, StepBatches
from lina_lab.data.shards import images as shards_module
from lina_lab.data.shards.format import ShardError, read_manifest
from lina_lab.data.vae import load_vae
from lina_lab.evaluation.weights import load
from lina_lab.model.folder import save_model
from lina_lab.training.trial import run_trial
from tests.data.shard_tools import IMAGES, IMAGES_PER_SHARD, Tiny, images_of, note_size, npy, only, rewrite, trial


def test_training_sees_unit_variance(made: Path) -> None:
    data = images_of(made, first=0, images=IMAGES)
    latents = torch.cat([data[torch.arange(IMAGES) + number * IMAGES][0] for number in range(40)])
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(2), atol=0.03)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(2), atol=0.03)


def test_samples_belong_to_seed_pass_and_image(made: Path) -> None:
    """Not to the batch; another pass or seed has other samples, and mirrors other images."""
    data = images_of(made)
    alone = torch.stack([data[torch.tensor([i])][0][0] for i in range(10)])
    assert torch.equal(alone, data[torch.arange(10)][0])
    assert torch.equal(alone.flip(0), data[torch.arange(10).flip(0)][0])
    later = data[torch.arange(10) + len(data)][0]
    assert not any(torch.allclose(a, b) for a, b in zip(alone, later, strict=True))
    assert not torch.equal(alone, images_of(made, seed=1)[torch.arange(10)][0])
    everything = torch.arange(len(data))
    held_out, condition = images_of(made, seed=None)[everything]
    assert torch.equal(condition["label"], data[everything][1]["label"])
    assert torch.equal(held_out, images_of(made, seed=None)[everything + len(data)][0])
    never = images_of(made, flip=False)[torch.arange(len(data))][0]
    mirrored = [not torch.equal(a, b) for a, b in zip(data[torch.arange(len(data))][0], never, strict=True)]
    assert 0.3 < sum(mirrored) / len(mirrored) < 0.7


@pytest.mark.parametrize("world_size", [1, 3])
def test_every_rank_sees_its_images_of_one_order(made: Path, world_size: int) -> None:
    """Each image once a pass, batches across the passes' border, and the same whatever number of ranks."""
    data = images_of(made)
    usual = {"images": len(data), "batch_size": 6, "steps": range(14), "seed": 3}
    whole = list(StepBatches(**usual, order=data.order, numbered=True))
    ranks = [
        list(StepBatches(**usual, order=data.order, numbered=True, layout=RankLayout(rank=r, world_size=world_size)))
        for r in range(world_size)
    ]
    for step, batch in enumerate(whole):
        assert torch.equal(batch, torch.cat([rank[step] for rank in ranks]))
    numbers = torch.cat(whole)
    assert torch.equal(numbers[: len(data)].sort().values, torch.arange(len(data)))
    assert torch.equal(numbers[len(data) : 2 * len(data)].sort().values, torch.arange(len(data)) + len(data))
    resumed = list(StepBatches(**usual, order=data.order, numbered=True, done=9))
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole[9:], strict=True))


def test_neighbors_in_the_order_come_from_few_shards(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "WINDOW", 2)
    data = images_of(made, first=0, images=40)
    order = data.order(torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(40))
    for start in range(0, 32, 16):
        assert len({int(index) // IMAGES_PER_SHARD for index in order[start : start + 16]}) == 2
    assert not torch.equal(order, data.order(torch.Generator().manual_seed(1)))


def test_a_trial_trains_from_shards_with_workers_as_without(tiny: Tiny, made: Path, tmp_path: Path) -> None:
    results = []
    for workers in (0, 2):
        (tmp_path / str(workers)).mkdir()
        results.append(run_trial(trial(tiny, made, workers=workers), tmp_path / str(workers)))
    assert results[0].status == "done"
    assert results[0].metrics == results[1].metrics


def test_images_of_a_model_of_latents_are_decoded(
    tiny: Tiny, made: Path, vae: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To pixels of the images' own size; by the autoencoder that made the shards alone."""
    run_trial(trial(tiny, made), tmp_path)
    arguments = [f"checkpoint={tmp_path}", f"out={tmp_path / 'out'}", "images=3", "ar_steps=4", "ode_steps=2"]
    assert SAMPLE.main([*arguments, f"vae={vae}"]) == 0
    with np.load(tmp_path / "out/samples.npz", allow_pickle=False) as arrays:
        assert arrays["arr_0"].shape == (3, 16, 16, 3)
        assert arrays["arr_0"].std() > 0
    capsys.readouterr()
    assert SAMPLE.main([*arguments, f"out={tmp_path / 'other'}"]) == 2
    sentence = f"holds latents: vae=NAME is the autoencoder that decodes them, {vae} when they were made"
    assert sentence in capsys.readouterr().err
    # The checkpoint of a set that is elsewhere now.
    save_model(load(tmp_path), tmp_path / "model")
    arguments[0] = f"checkpoint={tmp_path / 'model'}"
    assert SAMPLE.main([*arguments, f"out={tmp_path / 'other'}", f"vae={vae}"]) == 2
    assert "needs shards=FOLDER, whose manifest holds the scale of the latents" in capsys.readouterr().err
    assert SAMPLE.main([*arguments, f"out={tmp_path / 'other'}"]) == 2
    assert "2 channels are no pixels: name the decoder of these latents with vae=NAME" in capsys.readouterr().err
    manifest = read_manifest(made)
    images, latents = torch.zeros(1, 3, 16, 16), torch.zeros(1, 2, 8, 8)
    assert load_vae(str(vae)).sha256() == manifest.vae_sha256
    assert load_vae(str(vae)).moments(images).shape == (1, 4, 8, 8)
    assert load_vae(str(vae)).decode(latents).shape == (1, 3, 16, 16)


FIRST = "000000008"


def moments(array: np.ndarray) -> Any:
    return only(FIRST, "moments.npy", npy(array))


DAMAGES: dict[str, tuple[Any, str]] = {
    "a pickle": (only(FIRST, "cls", b"cos\nsystem\n", f"{FIRST}.pyd"), f"key {FIRST}: {FIRST}.pyd is none of"),
    "objects": (
        only(FIRST, "moments.npy", npy(np.array([{}]))),
        f"key {FIRST}: no array that can be read: an array of object",
    ),
    "a wrong shape": (
        only(FIRST, "moments.npy", npy(np.zeros((2, 4, 8, 7), np.float16))),
        "moments are float16[2, 4, 8, 7]",
    ),
    "a wrong type": (only(FIRST, "moments.npy", npy(np.zeros((2, 4, 8, 8)))), "moments are float64[2, 4, 8, 8]"),
    "no numbers": (
        only(FIRST, "moments.npy", npy(np.full((2, 4, 8, 8), np.nan, np.float16))),
        "moments are not finite",
    ),
    "a missing field": (only(FIRST, "cls", None), f"key {FIRST}: it has moments.npy, and needs"),
    "a wrong class": (only(FIRST, "cls", b"7"), "class b'7' is not one of 2"),
    "a damaged header": (
        only(FIRST, "moments.npy", b"\x93NUMPY\x01\x00\x76\x00{'descr': (" + b" " * 200),
        "no array that",
    ),
    "no array": (only(FIRST, "moments.npy", b"nothing"), "no array that can be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_sample_is_named_with_shard_and_key(shards: Path, damage: str) -> None:
    change, sentence = DAMAGES[damage]
    rewrite(shards / "shard-000001.tar", change)
    with pytest.raises(ShardError) as error:
        images_of(shards, first=0, images=IMAGES)[torch.arange(IMAGES)]
    assert "shard-000001.tar" in str(error.value)
    assert sentence in str(error.value)


def test_a_damaged_shard_is_named(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shards / "shard-000002.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShardError, match=r"shard-000002.tar has [\d,]+ bytes, and [\d,]+ in the manifest"):
        read_manifest(shards)
    note_size(path)
    with pytest.raises(ShardError, match=r"shard-000002.tar (holds|is no tar|ends)"):
        images_of(shards, first=0, images=IMAGES)[torch.arange(IMAGES)]
    path.write_bytes(whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
    note_size(path)
    assert CACHE.main([f"out={shards}", "verify=true"]) == 2
    assert capsys.readouterr().err == "error: shard-000002.tar: its contents are not those of the manifest\n"
    path.unlink()
    with pytest.raises(ShardError, match="is in the manifest, and not in the folder"):
        read_manifest(shards)
    manifest = json.loads((shards / "manifest.json").read_text())
    (shards / "manifest.json").write_text(json.dumps(manifest | {"shards": manifest["shards"][:2]}))
    with pytest.raises(ShardError, match="its shards hold 16 images, not 46"):
        read_manifest(shards)
    (shards / "manifest.json").write_text(json.dumps(manifest | {"format": 5, "shards": []}))
    with pytest.raises(ShardError, match="is of format 5, and this version of lina_lab knows 4"):
        read_manifest(shards)
    (shards / "manifest.json").unlink()
    with pytest.raises(ShardError, match=r"is not there: make shards with lina cache"):
        read_manifest(shards)


def test_a_manifest_of_the_first_format_is_read(shards: Path) -> None:
    path = shards / "manifest.json"
    found = json.loads(path.read_text())
    old = {name: value for name, value in found.items() if name not in ("text", "long_captions")} | {"format": 1}
    path.write_text(json.dumps(old))
    assert read_manifest(shards).classes == ("cat", "dog")
    path.write_text(json.dumps(found | {"std": [1.0]}))
    with pytest.raises(ShardError, match="mean and std are not of the 2 channels"):
        read_manifest(shards)


@pytest.mark.parametrize(
    "numbers",
    [
        {"std": [0.0, 1.0]},
        {"std": [-1.0, 1.0]},
        {"std": [float("nan"), 1.0]},
        {"std": [float("inf"), 1.0]},
        {"mean": [float("nan"), 0.0]},
        {"mean": [0.0, float("-inf")]},
    ],
)
def test_a_manifest_that_cannot_scale_latents_is_refused(
    tiny: Tiny, shards: Path, numbers: dict[str, list[float]]
) -> None:
    """It would train on numbers that are none, and the trial would be said to have diverged."""
    path = shards / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | numbers))
    with pytest.raises(ShardError, match=r"manifest.json: mean .* and std .* cannot scale latents"):
        make_data(trial(tiny, shards))


@pytest.mark.parametrize("contents", ["[" * 200_000, "\xff", '{"format": ' + "9" * 5000 + "}", "null"])
def test_a_damaged_manifest_is_one_sentence(shards: Path, contents: str) -> None:
    (shards / "manifest.json").write_bytes(contents.encode("latin-1"))
    with pytest.raises(ShardError, match=r"manifest\.json is damaged"):
        read_manifest(shards)
    (shards / "manifest.json").unlink()
    (shards / "manifest.json").mkdir()
    with pytest.raises(ShardError, match=r"manifest\.json is damaged"):
        read_manifest(shards)


def places(shards: Path) -> dict[str, tuple[int, int]]:
    """Where parts of the first image of the second shard lie in its file: offset and size."""
    reader = images_of(shards, first=0, images=IMAGES).reader
    at = reader.at(IMAGES_PER_SHARD)
    offset, size = at.shard.members["moments.npy"][at.within].tolist()
    half = (size - len(reader.header)) // 2
    class_, _ = at.shard.members["cls"][at.within].tolist()
    return {
        "the image": (offset + len(reader.header), half),
        "the mirror image": (offset + len(reader.header) + half, half),
        "the class": (class_, 1),
    }


@pytest.mark.parametrize("part", ["the image", "the mirror image", "the class"])
@pytest.mark.parametrize("noted", [True, False])
def test_flipped_bits_are_found_where_they_are_read(shards: Path, part: str, noted: bool) -> None:
    """Each would be another number that training takes. Also in shards of version 0.2, which note no sums."""
    path = shards / "shard-000001.tar"
    if not noted:
        rewrite(path, lambda member, data: iter([(member.name, data)]))
    offset, size = places(shards)[part]
    whole = path.read_bytes()
    for flipped in (offset, offset + size - 1):
        path.write_bytes(whole[:flipped] + bytes([whole[flipped] ^ 1]) + whole[flipped + 1 :])
        # The first image of the shard in forty passes: mirrored in about half of them.
        numbers = IMAGES_PER_SHARD + IMAGES * torch.arange(40)
        with pytest.raises(ShardError) as error:
            images_of(shards, first=0, images=IMAGES)[numbers]
        sentence = f"key {FIRST}: " if noted else "shard-000001.tar: its contents are not those of the manifest"
        assert sentence in str(error.value)
        skipping = images_of(shards, first=0, images=IMAGES, skip=0.5)
        skipping[numbers]
        assert IMAGES_PER_SHARD in skipping.damaged


def test_a_half_that_is_not_read_does_not_matter(shards: Path) -> None:
    """Held-out images are never mirrored; `lina cache verify=true` reads all."""
    path = shards / "shard-000001.tar"
    whole, (offset, _) = path.read_bytes(), places(shards)["the mirror image"]
    path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
    held_out = images_of(shards, first=0, images=IMAGES, seed=None)
    held_out[torch.arange(IMAGES)]
    assert CACHE.main([f"out={shards}", "verify=true"]) == 2


def test_a_class_of_thousands_of_digits_is_named(shards: Path) -> None:
    """Python refuses to read such a number with an error of its own."""
    rewrite(shards / "shard-000001.tar", only(FIRST, "cls", b"7" * 5000))
    with pytest.raises(ShardError, match=f"shard-000001.tar, key {FIRST}: class b'7777.*' is not one of 2"):
        images_of(shards, first=0, images=IMAGES)[torch.arange(IMAGES)]


def test_a_trial_does_not_go_on_with_other_data_of_the_same_name(tiny: Tiny, shards: Path, tmp_path: Path) -> None:
    """An image was corrected, and its shard made again. Checkpoints of version 0.2 do not know their data."""
    state = make_data(trial(tiny, shards)).state_dict()
    make_data(trial(tiny, shards)).load_state_dict(state)
    rewrite(shards / "shard-000001.tar", only(FIRST, "cls", b"1"))
    changed = make_data(trial(tiny, shards))
    with pytest.raises(ValueError, match="holds other data than the checkpoint is of"):
        changed.load_state_dict(state)
    changed.load_state_dict({name: value for name, value in state.items() if name != "data_sha256"})


def test_a_whole_damaged_shard_is_replaced_by_many_images(shards: Path) -> None:
    """Each of its images counts, and no image stands for all of them."""
    path = shards / "shard-000001.tar"
    path.write_bytes(b"\0" * path.stat().st_size)
    data = images_of(shards, first=0, images=IMAGES, seed=None, skip=0.5)
    latents, _ = data[torch.arange(IMAGES)]
    assert set(data.damaged) == set(range(8, 16))
    replaced = {tuple(image.flatten().tolist()) for image in latents[8:16]}
    assert len(replaced) > 4


def test_no_batch_stays_in_memory_for_a_damaged_shard(shards: Path) -> None:
    path = shards / "shard-000001.tar"
    path.write_bytes(b"\0" * path.stat().st_size)
    data, alive = images_of(shards, first=0, images=IMAGES, skip=0.5), []
    for _ in range(3):
        latents, _ = data[torch.arange(IMAGES)]
        alive.append(weakref.ref(latents))
        del latents
    assert [ref() for ref in alive] == [None] * 3
    assert data.reader.at(0).number == 0
    found = data.reader._indices[1]
    assert isinstance(found, str)


def test_what_was_passed_over_is_known_after_an_interruption(tiny: Tiny, shards: Path, tmp_path: Path) -> None:
    rewrite(shards / "shard-000001.tar", only(FIRST, "moments.npy", b"nothing"))
    config = trial(tiny, shards, on_error="skip", max_skipped=0.1)
    module = make_data(config)
    module.damaged[3] = "shard-000000.tar, key 3: gone"
    resumed = make_data(config)
    resumed.load_state_dict(module.state_dict())
    assert resumed.problems == ["skipped: shard-000000.tar, key 3: gone"]
    assert resumed.gather_damaged() == 1
    resumed.damaged.update({index: f"image {index}" for index in range(8)})
    with pytest.raises(ValueError, match=r"8 damaged images of 40 are more than data\.max_skipped=0\.1"):
        resumed.gather_damaged()


def test_no_file_is_left_open(made: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    data = images_of(made)
    data[torch.arange(len(data))]
    assert len(os.listdir("/proc/self/fd")) > before
    del data
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_passed_over_up_to_a_limit(tiny: Tiny, shards: Path, tmp_path: Path, workers: int) -> None:
    """Also where workers read: they meet only some of them each, and the limit is one of the data set."""
    rewrite(shards / "shard-000001.tar", only(FIRST, "moments.npy", b"nothing"))
    skipping = {"on_error": "skip", "max_skipped": 0.1, "workers": workers}
    result = run_trial(trial(tiny, shards, **skipping), tmp_path)
    assert result.status == "done"
    assert [problem[:40] for problem in result.problems] == [f"skipped: shard-000001.tar, key {FIRST}"]
    assert result.metrics["data/skipped"] == 1
    (tmp_path / "raise").mkdir()
    with pytest.raises(ShardError, match=f"^shard-000001.tar, key {FIRST}: no array") as raised:
        run_trial(trial(tiny, shards, workers=workers), tmp_path / "raise")
    assert "\n" not in str(raised.value)
    rewrite(shards / "shard-000002.tar", lambda member, contents: iter([(member.name, b"nothing")]))
    (tmp_path / "more").mkdir()
    with pytest.raises(ValueError, match=r"of 40 are more than data\.max_skipped=0\.1"):
        run_trial(trial(tiny, shards, **skipping), tmp_path / "more")


def test_no_more_are_skipped_than_the_limit_allows(shards: Path) -> None:
    rewrite(shards / "shard-000001.tar", only(FIRST, "moments.npy", b"nothing"))
    data = images_of(shards, first=0, images=IMAGES, skip=0.5)
    _, condition = data[torch.arange(IMAGES)]
    assert list(data.damaged) == list(condition["damaged"]) == [8]
    rewrite(shards / "shard-000002.tar", lambda member, contents: iter([(member.name, b"nothing")]))
    with pytest.raises(ShardError, match=r"are more than data\.max_skipped=0\.1"):
        images_of(shards, first=0, images=IMAGES, skip=0.1)[torch.arange(IMAGES)]


@pytest.mark.parametrize(
    ("model", "data", "sentence"),
    [
        ({"latent_size": [4, 4]}, {}, r"holds latents \[2, 8, 8\], and the model needs \[2, 4, 4\]"),
        ({"num_classes": 3}, {}, "holds 2 classes, and model.num_classes=3"),
        ({}, {"val_images": 46}, "holds 46 images, and data.val_images=46"),
    ],
)
def test_shards_that_do_not_fit_the_model_are_refused(
    tiny: Tiny, made: Path, model: dict[str, Any], data: dict[str, Any], sentence: str
) -> None:
    model = {"latent_channels": 2, "latent_size": [8, 8], "num_classes": 2} | model
    data = {"name": "shards", "path": str(made), "val_images": 6} | data
    sampling = {"images_per_class": 0, "ar_steps": 4}
    with pytest.raises(ShardError, match=sentence):
        make_data(tiny(model=model, data=data, sampling=sampling))
