"""Images on disk: the same set whichever rank generates it, none lost, none generated twice, and none mixed in."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lina_lab.commands.sample import COMMAND
from lina_lab.config import AttentionConfig, LinaConfig, TrialConfig
from lina_lab.data.pixels import to_pixels
from lina_lab.evaluation import sampling
from lina_lab.evaluation.recipe_names import RENAMED
from lina_lab.evaluation.sampling import SampleRecipe, check_recipe, generate_latents, sample
from lina_lab.evaluation.weights import load_trained
from lina_lab.model import LINA, initialize, save_model
from lina_lab.training.trial import run_trial

TINY = LinaConfig(
    latent_channels=1,
    latent_size=(4, 4),
    dim=16,
    num_heads=2,
    condition_depth=1,
    depth=2,
    flow_depth=1,
    num_classes=3,
    attention=AttentionConfig(gate="none"),
)


@pytest.fixture(scope="module")
def model() -> LINA:
    made = LINA(TINY)
    initialize(made, 0)
    # A fresh model's images do not depend on its weights: its last layer is zero.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made.eval()


def recipe(**values: object) -> SampleRecipe:
    usual: dict[str, object] = {"images": 11, "classes": (0, 2), "ar_steps": 4, "ode_steps": 2, "guidance_scale": 2.0}
    usual |= {
        "guidance_scale_start": 1.0,
        "seed": 0,
        "batch_size": 3,
        "weights": "ema",
        "weights_sha256": "",
        "decoder": "pixels",
    }
    return SampleRecipe(**{**usual, **values})  # type: ignore[arg-type]


def images(folder: Path) -> np.ndarray:
    with np.load(folder / "samples.npz", allow_pickle=False) as arrays:
        return np.array(arrays["arr_0"])


def test_the_set_is_the_same_on_any_number_of_ranks(model: LINA, tmp_path: Path) -> None:
    """Also after ranks of another number drew a part of it; an image does not depend on how many there are."""
    assert sample(model, to_pixels, recipe(), tmp_path / "one")
    done = [sample(model, to_pixels, recipe(), tmp_path / "three", rank=rank, world_size=3) for rank in (2, 0, 1)]
    assert done == [False, False, True]
    sample(model, to_pixels, recipe(), tmp_path / "mixed", rank=1, world_size=2)
    assert sample(model, to_pixels, recipe(), tmp_path / "mixed")
    one = images(tmp_path / "one")
    assert one.shape == (11, 4, 4, 3)
    assert one.dtype == np.uint8
    for other in ("three", "mixed"):
        assert np.array_equal(one, images(tmp_path / other))
    assert len(np.unique(one.reshape(11, -1), axis=0)) == 11
    sample(model, to_pixels, recipe(images=6), tmp_path / "fewer")
    assert np.array_equal(one[:6], images(tmp_path / "fewer"))
    sample(model, to_pixels, recipe(seed=1), tmp_path / "seed")
    assert not np.array_equal(one, images(tmp_path / "seed"))
    with np.load(tmp_path / "one/samples.npz", allow_pickle=False) as arrays:
        assert arrays["arr_1"].tolist() == [0, 2] * 5 + [0]
    with Image.open(tmp_path / "one/grid.png") as grid:
        assert grid.size == (4 * 5, 3 * 5)


def test_no_batch_is_generated_twice(model: LINA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the third batch; what a killed process left half written is overwritten."""
    sample(model, to_pixels, recipe(), tmp_path / "whole")
    generated: list[range] = []
    original = sampling.generate_latents

    def counted(model: LINA, recipe: SampleRecipe, indices: range, condition: dict[str, torch.Tensor]) -> torch.Tensor:
        if len(generated) == 2:
            raise KeyboardInterrupt
        generated.append(indices)
        return original(model, recipe, indices, condition)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "generate_latents", counted)
        with pytest.raises(KeyboardInterrupt):
            sample(model, to_pixels, recipe(), tmp_path / "broken")
    (tmp_path / "broken/parts/000002.npy.draft").write_bytes(b"half")
    reported: list[int] = []
    monkeypatch.setattr(sampling, "generate_latents", lambda m, r, i, c: generated.append(i) or original(m, r, i, c))
    assert sample(model, to_pixels, recipe(), tmp_path / "broken", report=reported.append)
    assert generated == [range(0, 3), range(3, 6), range(6, 9), range(9, 11)]
    assert reported == [3, 3, 3, 2]
    assert np.array_equal(images(tmp_path / "whole"), images(tmp_path / "broken"))
    assert sample(model, to_pixels, recipe(), tmp_path / "broken")
    assert len(generated) == 4


def test_images_of_another_recipe_are_not_mixed_in(model: LINA, tmp_path: Path) -> None:
    sample(model, to_pixels, recipe(), tmp_path)
    with pytest.raises(ValueError, match=r"holds images of another recipe \(guidance_scale=2.0 there, seed=0 there\)"):
        sample(model, to_pixels, recipe(guidance_scale=3.0, seed=5), tmp_path)


def test_a_recipe_of_version_0_1_is_the_same_recipe_under_its_old_names(model: LINA, tmp_path: Path) -> None:
    stored = {
        "images": 11,
        "classes": [0, 2],
        "steps": 4,
        "flow_steps": 2,
        "guidance": 2.0,
        "min_guidance": 1.0,
        "seed": 0,
        "portion": 3,
        "weights": "ema",
        "weights_sha256": "",
        "decoder": "pixels",
        "prompts": [],
        "encoder": None,
        "encoder_sha256": None,
    }
    assert RENAMED.keys() <= stored.keys()
    (tmp_path / "recipe.json").write_text(json.dumps(stored))
    check_recipe(tmp_path, recipe())
    for name, value in (("steps", 5), ("guidance", 3.0), ("portion", 4), ("seed", 1)):
        (tmp_path / "recipe.json").write_text(json.dumps({**stored, name: value}))
        with pytest.raises(ValueError, match=rf"another recipe \({RENAMED.get(name, name)}={value} there\)"):
            check_recipe(tmp_path, recipe())


def test_a_recipe_is_noted_only_when_it_can_be_generated(model: LINA, tmp_path: Path) -> None:
    """A corrected command resumes in the same folder; in an earlier version's recipe new fields have their defaults."""
    with pytest.raises(ValueError, match="must be between 1 and the 16 tokens"):
        sample(model, to_pixels, recipe(ar_steps=17), tmp_path)

    def no_decoder(latents: torch.Tensor) -> np.ndarray:
        raise ValueError("no pixels")

    with pytest.raises(ValueError, match="no pixels"):
        sample(model, no_decoder, recipe(), tmp_path)
    assert not list(tmp_path.iterdir())
    assert sample(model, to_pixels, recipe(), tmp_path)
    path = tmp_path / "recipe.json"
    noted = json.loads(path.read_text())
    path.write_text(json.dumps({name: noted[name] for name in noted if name not in ("prompts", "encoder")}))
    assert sample(model, to_pixels, recipe(), tmp_path)


def test_pixels() -> None:
    grey = torch.tensor([-1.0, 1.0, 0.0, 7.0]).reshape(1, 1, 2, 2)
    assert to_pixels(grey)[0, :, :, 0].tolist() == [[0, 255], [128, 255]]
    assert to_pixels(grey).shape == (1, 2, 2, 3)
    with pytest.raises(ValueError, match="16 channels are no pixels"):
        to_pixels(torch.zeros(1, 16, 2, 2))


def test_a_checkpoint_has_both_weights_and_a_folder_is_enough(tiny: Callable[..., TrialConfig], tmp_path: Path) -> None:
    run_trial(tiny(), tmp_path)
    ema, raw = load_trained(tmp_path, "ema"), load_trained(tmp_path, "raw")
    assert ema.sha256 == raw.sha256
    first = [next(iter(trained.model.parameters())) for trained in (ema, raw)]
    assert not torch.equal(*first)
    newest = max(tmp_path.glob("step-*.ckpt"))
    saved = torch.load(newest, weights_only=True)
    name = next(name for name, _ in raw.model.named_parameters())
    assert torch.equal(first[1], saved["current_model_state"][f"model.{name}"])
    save_model(ema.model, tmp_path / "model")
    assert torch.equal(next(iter(load_trained(tmp_path / "model").model.parameters())), first[0])
    newest.write_bytes(newest.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="is not a whole checkpoint of a trial"):
        load_trained(newest)
    with pytest.raises(ValueError, match="holds neither a model nor a checkpoint"):
        load_trained(tmp_path / "model/..//logs" if (tmp_path / "logs").exists() else tmp_path.parent)


@pytest.mark.system
def test_killed_ranks_go_on_with_what_they_have(model: LINA, tmp_path: Path) -> None:
    """Two processes, killed as soon as a few batches are there; then three: the images that one alone makes."""
    save_model(model, tmp_path / "model")
    line = [
        sys.executable,
        "-m",
        "lina_lab.cli",
        "sample",
        f"checkpoint={tmp_path / 'model'}",
        "images=80",
        "batch_size=2",
    ]
    line += ["ar_steps=16", "guidance_scale=2.0", "guidance_scale_start=1.0"]

    def start(out: str, rank: int, world_size: int) -> "subprocess.Popen[bytes]":
        ranks = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "TORCHELASTIC_RUN_ID": "x", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*line, f"out={tmp_path / out}"], env={**os.environ, **ranks}, stdout=subprocess.DEVNULL
        )

    assert COMMAND.main([*line[4:], f"out={tmp_path / 'alone'}"]) == 0
    both = [start("killed", rank, 2) for rank in range(2)]
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "killed/parts").glob("*.npy"))) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    for process in both:
        process.kill()
        process.wait()
    assert not (tmp_path / "killed/samples.npz").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed/parts").glob("*.npy")}
    assert 5 <= len(kept) < 40
    three = [start("killed", rank, 3) for rank in range(3)]
    assert [process.wait(timeout=240) for process in three] == [0, 0, 0]
    assert np.array_equal(images(tmp_path / "alone"), images(tmp_path / "killed"))


def test_the_command(model: LINA, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(model, tmp_path / "model")
    arguments = [
        f"checkpoint={tmp_path / 'model'}",
        f"out={tmp_path / 'out'}",
        "images=5",
        "batch_size=2",
        "ar_steps=4",
    ]
    assert COMMAND.main(arguments) == 0
    assert f"5 images: {tmp_path / 'out/samples.npz'}" in capsys.readouterr().out
    noted = json.loads((tmp_path / "out/recipe.json").read_text())
    assert noted["classes"] == [0, 1, 2]
    assert len(noted["weights_sha256"]) == 64
    assert COMMAND.main([*arguments, "classes=[7]", f"out={tmp_path / 'other'}"]) == 2
    assert "classes=[7]: the model has 3 classes" in capsys.readouterr().err
    assert COMMAND.main([*arguments, "seed=1"]) == 2
    assert "holds images of another recipe" in capsys.readouterr().err
    assert COMMAND.main(["checkpoint=nowhere", "out=x"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "variables",
    [{"WORLD_SIZE": "4", "RANK": "0"}, {"RANK": "3"}, {"WORLD_SIZE": "4"}, {"RANK": "x", "WORLD_SIZE": "1"}],
)
def test_variables_of_another_launcher_do_not_make_it_a_part(
    model: LINA,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
) -> None:
    """It generated a part of the images, printed nothing, and returned 0."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    save_model(model, tmp_path / "model")
    line = [f"checkpoint={tmp_path / 'model'}", f"out={tmp_path / 'out'}", "images=4", "batch_size=2", "ar_steps=4"]
    assert COMMAND.main(line) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "unset RANK and WORLD_SIZE, or start the ranks with torchrun" in printed.err
    assert not (tmp_path / "out").exists()


def test_a_rank_says_that_others_are_still_at_it(
    model: LINA, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    save_model(model, tmp_path / "model")
    line = [f"checkpoint={tmp_path / 'model'}", f"out={tmp_path / 'out'}", "images=5", "batch_size=2", "ar_steps=4"]
    assert COMMAND.main(line) == 0
    assert "rank 0: its 3 of 5 images are there, others are still at it" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    assert COMMAND.main(line) == 0
    assert f"5 images: {tmp_path / 'out/samples.npz'}" in capsys.readouterr().out


def test_weights_that_are_not_numbers_are_not_sampled_from(model: LINA, tmp_path: Path) -> None:
    broken = deepcopy(model)
    broken.backbone.mask_token.data[0] = torch.nan
    save_model(broken, tmp_path / "model")
    with pytest.raises(ValueError, match=r"weights are not finite \(backbone\.mask_token\)"):
        load_trained(tmp_path / "model")


def test_guidance_of_a_model_that_never_dropped_its_condition_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: LINA
) -> None:
    """Its "no class" is an embedding as it was initialized."""
    save_model(LINA(replace(model.config, condition_dropout=0.0)), tmp_path / "model")
    line = [f"checkpoint={tmp_path / 'model'}", f"out={tmp_path / 'out'}", "images=2", "ar_steps=2", "ode_steps=1"]
    assert COMMAND.main([*line, "guidance_scale=2.0"]) == 2
    assert "guidance needs a model that has trained without its condition too" in capsys.readouterr().err
    assert COMMAND.main(line) == 0


def test_images_of_a_large_set_do_not_repeat_and_an_old_set_is_finished_as_it_was_begun(
    model: LINA, tmp_path: Path
) -> None:
    """With 32 bits of a seed, images 6187 and 38634 of seed 1 had one order and one noise."""
    pair = [range(6187, 6188), range(38634, 38635)]
    for version, equal in ((1, True), (2, False)):
        drawn = recipe(images=50_000, seed=1, classes=(0,), rng_version=version)
        first, second = (generate_latents(model, drawn, each, {"label": torch.tensor([0])}) for each in pair)
        assert torch.equal(first, second) == equal
    save_model(model, tmp_path / "model")
    line = [f"checkpoint={tmp_path / 'model'}", f"out={tmp_path / 'out'}", "images=3", "batch_size=3", "ar_steps=2"]
    assert COMMAND.main(line) == 0
    new = images(tmp_path / "out")
    noted = json.loads((tmp_path / "out/recipe.json").read_text())
    assert noted.pop("rng_version") == 2
    (tmp_path / "old").mkdir()
    (tmp_path / "old/recipe.json").write_text(json.dumps(noted))
    assert COMMAND.main([*line[:1], f"out={tmp_path / 'old'}", *line[2:]]) == 0
    assert not np.array_equal(images(tmp_path / "old"), new)
    assert "rng_version" not in json.loads((tmp_path / "old/recipe.json").read_text())
