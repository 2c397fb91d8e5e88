"""The way of one's own pictures, by commands alone: from a folder with JSON captions to metrics of samples."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lina_lab import run
from lina_lab.commands.cache import COMMAND as CACHE
from lina_lab.commands.evaluate import COMMAND as EVALUATE
from lina_lab.commands.sample import COMMAND as SAMPLE
from tests.data.test_autoencoders import saved

STUDY = """\
# @package _global_
study:
  question: Does a gate help on my pictures?
  axes:
    gate: {model.attention.gate: [none, kv]}
    size: {model.dim: [16]}
  size_axis: size
  seeds: [0]
model: {num_heads: 4, condition_depth: 1, depth: 2, flow_depth: 1, noise_samples_per_token: 1}
data: {batch_size: 16, val_images: 8, val_batch_size: 4}
trainer: {max_images: 64, val_every_images: 32}
ema: {decay: 0.5, every_n_steps: 1}
sampling: {images_per_class: 0, ar_steps: 2, ode_steps: 2}
"""


@pytest.mark.system
def test_own_pictures_become_a_study_samples_and_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As latents of an autoencoder. Nothing that the shards know is typed."""
    monkeypatch.chdir(tmp_path)
    for number in range(32):
        path = tmp_path / f"pictures/{number:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = np.full((18, 16 + number % 3, 3), 7 * number) + np.random.default_rng(number).integers(0, 30, 3)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        path.with_suffix(".json").write_text(json.dumps({"caption": f"picture {number}", "status": "success"}))
    (tmp_path / "studies/study").mkdir(parents=True)
    (tmp_path / "studies/study/mine.yaml").write_text(STUDY)
    vae = f"vae={saved('AutoencoderDC', tmp_path / 'vae')}"
    line = ["images=pictures", "resolution=16", "out=shards", vae, "text=words", "text_dim=8", "text_length=4"]
    assert CACHE.main(line) == 0
    assert run.main(["study=mine", "data=shards", "data.path=shards"]) == 0
    cells = sorted(path.parent for path in tmp_path.glob("runs/mine/*/result.json"))
    results = [json.loads((cell / "result.json").read_text())["result"] for cell in cells]
    assert [result["status"] for result in results] == ["done", "done"]
    (tmp_path / "prompts.txt").write_text("picture 1\npicture 2\n")
    more = [vae, "prompts=prompts.txt", "images=24", "ar_steps=2", "ode_steps=2"]
    assert SAMPLE.main([f"checkpoint={cells[0]}", "out=samples", *more]) == 0
    with np.load("samples/samples.npz", allow_pickle=False) as file:
        assert file["arr_0"].shape == (24, 16, 16, 3)
    reference = tmp_path / "reference.npz"
    images = [np.asarray(Image.open(path).resize((16, 16))) for path in sorted(tmp_path.glob("pictures/*.jpg"))]
    np.savez(reference, arr_0=np.stack(images))
    capsys.readouterr()
    assert EVALUATE.main(["samples=samples/samples.npz", f"reference={reference}", "features=pixels"]) == 0
    assert "fid" in capsys.readouterr().out.lower()
