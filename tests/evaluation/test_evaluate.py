"""The command from images to metrics: what is read, what is refused, and the same numbers in any batch size."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from mlflow import MlflowClient
from PIL import Image
from torch import nn

from lina_lab.commands.evaluate import COMMAND
from lina_lab.evaluation import features as features_module
from lina_lab.evaluation.features import FEATURES, Features, extract, inception
from lina_lab.evaluation.images import read_images, read_statistics
from lina_lab.evaluation.moments import moments_of

RNG = np.random.default_rng(0)


def pictures(count: int, shift: int = 0) -> np.ndarray:
    return np.clip(RNG.integers(0, 200, (count, 6, 5, 3)) + shift, 0, 255).astype(np.uint8)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Samples, and a reference as npz, as a folder of the same pictures, and as WebDataset shards of them."""
    np.savez(tmp_path / "samples.npz", arr_0=pictures(60, 20))
    reference = pictures(80)
    np.savez(tmp_path / "reference.npz", arr_0=reference)
    (tmp_path / "folder/class").mkdir(parents=True)
    for number, picture in enumerate(reference):
        Image.fromarray(picture).save(tmp_path / f"folder/class/{number:03d}.png")
    (tmp_path / "shards").mkdir()
    with wds.ShardWriter(str(tmp_path / "shards/%03d.tar"), maxcount=30, verbose=0) as writer:
        for number, picture in enumerate(reference):
            writer.write({"__key__": f"{number:03d}", "png": picture, "cls": 0})
    return tmp_path


def result(folder: Path, *arguments: str) -> dict[str, float]:
    assert COMMAND.main([f"samples={folder / 'samples.npz'}", "features=pixels", *arguments]) == 0
    found: dict[str, float] = json.loads((folder / "metrics.json").read_text())["metrics"]
    return found


def test_metrics_do_not_depend_on_portions_or_on_how_images_are_stored(sets: Path) -> None:
    whole = result(sets, f"reference={sets / 'reference.npz'}")
    assert set(whole) == {
        f"{name}_by_pixels"
        for name in (
            "images",
            "fid",
            "fid_std",
            "fid_inf",
            "kid",
            "precision",
            "recall",
            "reference_images",
        )
    }
    assert (whole["images_by_pixels"], whole["reference_images_by_pixels"]) == (60, 80)
    assert whole["fid_by_pixels"] > 0
    for arguments in (
        ["batch_size=7", f"reference={sets / 'reference.npz'}"],
        *([f"reference={sets / name}"] for name in ("folder", "shards")),
    ):
        other = result(sets, *arguments)
        assert other == pytest.approx(whole, rel=1e-9)
    itself = result(sets, f"reference={sets / 'samples.npz'}")
    assert itself["fid_by_pixels"] == pytest.approx(0, abs=1e-6)
    assert (itself["precision_by_pixels"], itself["recall_by_pixels"]) == (1, 1)


def test_metrics_go_to_an_mlflow_run_with_their_recipe(sets: Path) -> None:
    uri = f"sqlite:///{sets / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("x", artifact_location=str(sets / "artifacts"))).info.run_id
    found = result(sets, f"reference={sets / 'folder'}", f"run={run}", f"tracking_uri={uri}")
    logged = client.get_run(run).data.metrics
    assert logged == {f"eval/{name}": pytest.approx(value) for name, value in found.items()}
    assert [artifact.path for artifact in client.list_artifacts(run)] == ["metrics.json"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["samples={}/none.npz", "reference={}/folder"], "none.npz: there is no such file"),
        (["samples={}/samples.npz", "reference={}/empty"], "holds no pictures"),
        (["samples={}/text.npz", "reference={}/folder"], "is no npz file that can be read"),
        (
            ["samples={}/float.npz", "reference={}/folder"],
            "holds float64[3, 2, 2, 3] under arr_0, and",
        ),
        (["samples={}/other.npz", "reference={}/folder"], "holds x.npy, and no images"),
        (["samples={}/cut.npz", "reference={}/folder"], "cut.npz"),
        (["samples={}/header.npz", "reference={}/folder"], "header.npz is damaged: "),
        (["samples={}/samples.npz", "reference={}/moments.npz"], "moments.npz is damaged: "),
        (["samples={}/samples.npz", "reference={}/nan.npz"], "nan.npz holds moments that are not finite"),
        (["samples={}/sizes", "reference={}/folder"], "00.png has 6 x 5 pixels and {}/sizes/25.png 6 x 6"),
        (["samples={}/sizes", "reference={}/folder", "batch_size=1"], "holds pictures of several sizes: "),
        (["samples={}/broken", "reference={}/folder"], "is no picture that can be read"),
        (["samples={}/samples.npz", "reference={}/stats.npz"], "features=pixels needs images"),
        (["samples={}/few.npz", "reference={}/folder"], "3 images are too few to extrapolate from"),
        (["samples={}/samples.npz", "reference={}/few.npz"], "3 reference images have no 3rd nearest neighbor"),
        (
            ["samples={}/samples.npz", "reference={}/large.npz"],
            "features=pixels compares images of one size: {}/samples.npz has 6 x 5 pixels and {}/large.npz has 12 x 9",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(
    sets: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    for name in ("empty", "sizes", "broken"):
        (sets / name).mkdir()
    (sets / "text.npz").write_text("no archive")
    np.savez(sets / "float.npz", arr_0=np.zeros((3, 2, 2, 3)))
    np.savez(sets / "other.npz", x=np.zeros(3))
    np.savez(sets / "few.npz", arr_0=pictures(3))
    np.savez(sets / "large.npz", arr_0=np.zeros((30, 12, 9, 3), np.uint8))
    np.savez(sets / "stats.npz", mu=np.zeros(4), sigma=np.eye(4))
    np.savez(sets / "nan.npz", mu=np.full(4, np.nan), sigma=np.eye(4))
    header = b"\x93NUMPY\x01\x00\x76\x00{'descr': (" + b" " * 200
    for name, members in (("header", ("arr_0",)), ("moments", ("mu", "sigma"))):
        with zipfile.ZipFile(sets / f"{name}.npz", "w") as archive:
            for member in members:
                archive.writestr(f"{member}.npy", header)
    whole = (sets / "samples.npz").read_bytes()
    (sets / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for number in range(30):
        Image.new("RGB", (6 if number == 25 else 5, 6)).save(sets / f"sizes/{number:02d}.png")
    (sets / "broken/1.png").write_bytes(b"no picture")
    assert COMMAND.main([argument.format(sets) for argument in arguments] + ["features=pixels"]) == 2
    printed = capsys.readouterr()
    assert sentence.replace("{}", str(sets)) in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not (sets / "metrics.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["samples={}/few.npz", "reference={}/folder"], "3 images are too few to extrapolate from: 20 are needed"),
        (["samples={}/samples.npz", "reference={}/few.npz"], "3 reference images have no 3rd nearest neighbor"),
        (["run=abc", "tracking_uri=sqlite:///{}/mlflow.db"], "run=abc: "),
        (["run=deleted", "tracking_uri=sqlite:///{}/mlflow.db"], "this run was deleted"),
        (["run=abc", "tracking_uri=sqlite:///{}/none.db"], "none.db: there is no such file"),
        (["out={}/none/metrics.json"], "none/metrics.json is in a folder that is not there"),
        (["out={}/folder"], "folder is a folder: give a file"),
    ],
)
def test_what_will_be_refused_is_refused_before_any_feature(
    sets: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    sentence: str,
) -> None:
    extracted: list[int] = []

    def extractor(images: torch.Tensor) -> Features:
        extracted.append(len(images))
        return Features(pool=images.flatten(1).float().numpy())

    monkeypatch.setitem(FEATURES, "pixels", lambda *_: extractor)
    np.savez(sets / "few.npz", arr_0=pictures(3))
    client = MlflowClient(f"sqlite:///{sets / 'mlflow.db'}")
    deleted = client.create_run(client.create_experiment("x")).info.run_id
    client.delete_run(deleted)
    whole = [f"samples={sets / 'samples.npz'}", f"reference={sets / 'folder'}", "features=pixels"]
    named = {argument.partition("=")[0]: argument for argument in whole}
    named |= {argument.partition("=")[0]: argument.format(sets) for argument in arguments}
    if named.get("run") == "run=deleted":
        named["run"] = f"run={deleted}"
    assert COMMAND.main(list(named.values())) == 2
    assert sentence in capsys.readouterr().err
    assert extracted == []
    assert not (sets / "none.db").exists()
    assert COMMAND.main(whole) == 0
    assert extracted


def test_other_sizes_that_a_network_resizes_are_said(
    sets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        FEATURES, "inception", lambda *_: lambda images: Features(pool=images[:, :, :4, :4].flatten(1).float().numpy())
    )
    np.savez(sets / "large.npz", arr_0=RNG.integers(0, 200, (30, 12, 9, 3)).astype(np.uint8))
    both = f"{sets}/samples.npz has 6 x 5 pixels and {sets}/large.npz has 12 x 9 pixels"
    for reference, said in (("large.npz", both), ("folder", None)):
        assert COMMAND.main([f"samples={sets / 'samples.npz'}", f"reference={sets / reference}"]) == 0
        assert ("the resizing is a part" in capsys.readouterr().out) == (said is not None)
        assert json.loads((sets / "metrics.json").read_text())["sizes_differ"] == said


def test_without_the_network_s_weights_one_sentence_says_how_to_get_them(
    sets: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(sets))
    command = [f"samples={sets / 'samples.npz'}", f"reference={sets / 'folder'}"]
    assert COMMAND.main(command) == 2
    assert "weights are not here: download" in capsys.readouterr().err
    assert COMMAND.main([*command, f"inception={sets / 'samples.npz'}"]) == 2
    assert "does not hold the Inception network's weights" in capsys.readouterr().err


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception with random weights: of the real shape, and of no use."""
    from torch_fidelity import feature_extractor_inceptionv3 as port

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.manual_seed(0)
    original, port.load_state_dict_from_url = port.load_state_dict_from_url, lambda *_, **__: {}
    load, nn.Module.load_state_dict = nn.Module.load_state_dict, lambda *_, **__: None  # type: ignore[method-assign, assignment]
    try:
        network = port.FeatureExtractorInceptionV3("x", ["2048"])
    finally:
        port.load_state_dict_from_url, nn.Module.load_state_dict = original, load  # type: ignore[method-assign]
    torch.save(network.state_dict(), path)
    return path


def test_inception_s_features_have_adm_s_layout(weights: Path) -> None:
    """Pool 2,048; spatial 17 x 17 x 7 of mixed_6, height, width, channel; probabilities of the logits without bias."""
    images = torch.from_numpy(pictures(2)).permute(0, 3, 1, 2)
    extractor = inception(str(weights), "cpu")
    found = extractor(images)
    assert found.pool.shape == (2, 2048)
    assert found.spatial is not None
    assert found.spatial.shape == (2, 2023)
    assert found.probabilities is not None
    assert found.probabilities.shape == (2, 1008)
    assert found.probabilities.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    network = extractor.network  # type: ignore[attr-defined]
    kept: list[torch.Tensor] = []
    network.Mixed_6d.register_forward_hook(lambda *args: kept.append(args[2]))
    network(images)
    block = kept[0]
    assert block.shape == (2, 768, 17, 17)
    for row, column, channel in ((0, 0, 0), (3, 11, 5), (16, 16, 6)):
        assert found.spatial[1, (row * 17 + column) * 7 + channel] == block[1, channel, row, column]
    logits = torch.from_numpy(found.pool) @ network.fc.weight.T
    assert torch.allclose(logits.softmax(1), torch.from_numpy(found.probabilities), atol=1e-6)


def test_large_images_are_not_compared_by_their_pixels() -> None:
    extractor = FEATURES["pixels"](None, "cpu")
    assert extractor(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).pool.shape == (2, 3072)
    with pytest.raises(ValueError, match=r"of 64 x 64 pixels are 12,288 numbers, and of more than 3,072"):
        extractor(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))


@pytest.mark.system
def test_stored_statistics_are_the_reference(sets: Path, weights: Path) -> None:
    """In ADM's layout; without images what needs them is left out, and the distances are those to the images."""
    for name, count in (("samples", 20), ("reference", 6)):
        np.savez(sets / f"{name}.npz", arr_0=pictures(count, count))
    with_images = [f"samples={sets / 'samples.npz'}", f"inception={weights}", f"reference={sets / 'reference.npz'}"]
    assert COMMAND.main(with_images) == 0
    whole = json.loads((sets / "metrics.json").read_text())["metrics"]
    assert {"fid", "sfid", "inception_score", "precision", "recall", "kid"} <= set(whole)
    seen = extract(read_images(sets / "reference.npz"), inception(str(weights), "cpu"))
    assert seen.spatial is not None
    pool, spatial = moments_of(seen.pool).gaussian, moments_of(seen.spatial).gaussian
    moments = {"mu": pool.mean, "sigma": pool.covariance, "mu_s": spatial.mean, "sigma_s": spatial.covariance}
    np.savez(sets / "stats.npz", **moments)
    stored = read_statistics(sets / "stats.npz")
    assert stored is not None
    assert COMMAND.main([*with_images[:2], f"reference={sets / 'stats.npz'}"]) == 0
    result = json.loads((sets / "metrics.json").read_text())
    alone = result["metrics"]
    assert set(whole) - set(alone) == {"precision", "recall", "kid", "reference_images"}
    assert alone["fid"] == pytest.approx(whole["fid"], rel=1e-6)
    assert alone["sfid"] == pytest.approx(whole["sfid"], rel=1e-6)
    assert result["reference"]["statistics"] is True
    assert features_module.SPATIAL_CHANNELS == 7
