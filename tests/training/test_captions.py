"""Text to image on shapes: trained on unlimited captions, judged by whether images show what captions ask for."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lina_lab.analysis.load.geneval_results import read_results
from lina_lab.analysis.stats.geneval import compare, scores
from mlflow import MlflowClient
from PIL import Image

from lina_lab.commands.check import COMMAND as CHECK
from lina_lab.commands.sample import COMMAND as SAMPLE
from lina_lab.config import StudyConfig, TrialConfig, from_dict, to_dict
from lina_lab.data.modules.shapes import HELD_OUT, ShapesDataModule
from lina_lab.data.scenes import render, scene
from lina_lab.data.text import load_text_encoder
from lina_lab.model import LINA
from lina_lab.records.result import Progress
from lina_lab.records.runstore import TrackingRun
from lina_lab.study.grid import make_plan
from lina_lab.training.callbacks import captions as captions_module
from lina_lab.training.callbacks.captions import METRIC, SHUFFLED, derangement
from lina_lab.training.stopping import StopSignals
from lina_lab.training.trial import run_trial
from tests.conftest import STUDY

Tiny = Callable[..., TrialConfig]
MODEL = {
    "latent_channels": 3,
    "latent_size": [32, 32],
    "patch_size": 8,
    "num_classes": None,
    "text_dim": 8,
    "text_length": 8,
}
DATA = {"name": "shapes", "encoder": "words", "batch_size": 8, "val_images": 12, "val_batch_size": 6}


def t2i(tiny: Tiny, **changes: Any) -> TrialConfig:
    sections = {"model": MODEL, "data": DATA} | changes
    for name, usual in (("model", MODEL), ("data", DATA)):
        sections[name] = usual | sections[name]
    return tiny(**sections)


def test_images_are_unlimited_and_follow_from_the_seed(tiny: Tiny) -> None:
    """No two of a training are of one number; those of another seed, and the held-out ones, are others."""
    data = ShapesDataModule(t2i(tiny, trainer={"max_images": 25_000, "val_every_images": 25_000}))
    numbers = torch.cat(list(data.train_dataloader().sampler))
    assert numbers.tolist() == list(range(25_000))
    assert len(data.train_dataloader()) == 25_000 // 8
    latents, condition = data.train_set[torch.tensor([3, 20_000])]
    assert (latents.shape, latents.dtype) == ((2, 3, 32, 32), torch.float32)
    assert latents.min() >= -1
    assert latents.max() <= 1
    again, _ = ShapesDataModule(t2i(tiny)).train_set[torch.tensor([20_000])]
    assert torch.equal(again[0], latents[1])
    other, _ = ShapesDataModule(replace(t2i(tiny), seed=1)).train_set[torch.tensor([3])]
    assert not torch.equal(other[0], latents[0])
    held_out, _ = data.val_set[torch.arange(12)]
    assert torch.equal(held_out, ShapesDataModule(replace(t2i(tiny), seed=1)).val_set[torch.arange(12)][0])
    expected = torch.from_numpy(render(scene(HELD_OUT, 5), 32).copy()).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(held_out[5], expected)
    assert len(condition["captions"]) == 2


def test_long_captions_say_all_that_is_there(tiny: Tiny) -> None:
    data = ShapesDataModule(t2i(tiny, data={"long_captions": 0.5}))
    numbers = torch.arange(400)
    _, condition = data.train_set[numbers]
    made = [data.train_set.scene(number) for number in numbers.tolist()]
    long = [caption == each.long_caption for caption, each in zip(condition["captions"], made, strict=True)]
    assert 0.4 < np.mean(long) < 0.6
    assert all(c == e.caption for c, e, is_long in zip(condition["captions"], made, long, strict=True) if not is_long)
    for each in made:
        for item in each.items:
            assert f"a {item.color} {item.shape} " in each.long_caption
        assert len(each.long_caption.split(", ")) == len(each.items)
    middle = next(s for s in made if "in the middle" in s.long_caption)
    assert any(abs(item.row - 0.5) < 1 / 6 and abs(item.column - 0.5) < 1 / 6 for item in middle.items)


def right_images(model: LINA, text: torch.Tensor, **rest: Any) -> torch.Tensor:
    """The images that a perfect model would generate for some states."""
    scenes = [scene(HELD_OUT, index) for index in range(240)]
    states, _ = load_text_encoder("words", 8).encode([made.caption for made in scenes], text.shape[1])
    found = [scenes[next(i for i, own in enumerate(states) if torch.equal(own, row))] for row in text]
    return torch.from_numpy(np.stack([render(made, 64) for made in found])).permute(0, 3, 1, 2) / 127.5 - 1


def test_the_score_is_the_checkers_and_files_say_it_too(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 for images that are right, chance for those of other captions; GenEval's files give the same scores."""
    monkeypatch.setattr(captions_module, "CAPTION_BATCH_SIZE", 50)
    monkeypatch.setattr(LINA, "generate", right_images)
    model = {"latent_size": [64, 64], "patch_size": 16}
    sampling = {"caption_images": 240, "images_per_class": 0}
    result = run_trial(t2i(tiny, model=model, sampling=sampling), tmp_path)
    assert result.metrics[METRIC] == 1.0
    assert 0.05 < result.metrics[SHUFFLED] < 0.35
    files = {name: read_results(tmp_path / f"{name}.jsonl", partial=True) for name in ("captions", "captions_shuffled")}
    for name, metric in (("captions", METRIC), ("captions_shuffled", SHUFFLED)):
        assert len(files[name].images) == 240
        table = scores(files[name]).set_index("task")
        assert table.loc["overall", "score"] == pytest.approx(result.metrics[metric])
    change = compare(files["captions_shuffled"], files["captions"]).set_index("task")
    assert change.loc["overall", "low"] > 0.5


def test_shuffled_captions_are_the_same_and_none_keeps_its_image() -> None:
    metadata = [{"prompt": str(index)} for index in range(100)]
    others = derangement(metadata)
    assert Counter(each["prompt"] for each in others) == Counter(each["prompt"] for each in metadata)
    assert not any(a is b for a, b in zip(metadata, others, strict=True))
    assert others == derangement(metadata)


def test_it_is_measured_at_stated_budgets_and_is_no_part_of_training(tiny: Tiny, tmp_path: Path) -> None:
    trainer = {"max_images": 64, "val_every_images": 16}
    results, steps = {}, {}
    for name, sampling in (
        ("with", {"caption_images": 12, "quality_every_images": 32}),
        ("without", {"images_per_class": 1}),
    ):
        (tmp_path / name).mkdir()
        uri = f"sqlite:///{tmp_path / name / 'mlflow.db'}"
        client = MlflowClient(uri)
        run = client.create_run(client.create_experiment("x")).info.run_id
        config = t2i(tiny, trainer=trainer, sampling=sampling)
        results[name] = run_trial(config, tmp_path / name, tracking=TrackingRun(uri=uri, run_id=run))
        steps[name] = [point.step for point in client.get_metric_history(run, METRIC)]
    assert steps == {"with": [32, 64], "without": []}
    assert {METRIC, SHUFFLED} <= results["with"].metrics.keys()
    rest = {name: value for name, value in results["with"].metrics.items() if name not in (METRIC, SHUFFLED)}
    assert rest == results["without"].metrics
    lines = (tmp_path / "with/captions.jsonl").read_text().splitlines()
    assert len(lines) == 12
    assert json.loads(lines[0])["prompt"] == scene(HELD_OUT, 0).caption


def test_images_of_prompts_are_laid_out_for_genevals_tool(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checker reads that layout; the encoder is the checkpoint's."""
    trial = tmp_path / "trial"
    trial.mkdir()
    run_trial(t2i(tiny), trial)
    metadata = [scene(1, index).metadata for index in range(3)]
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text("".join(json.dumps(each) + "\n" for each in metadata))
    line = [f"checkpoint={trial}", "ar_steps=2", "ode_steps=2", "guidance_scale=2.0"]
    assert SAMPLE.main([*line, f"out={tmp_path / 'out'}", f"prompts={prompts}"]) == 0
    recipe = json.loads((tmp_path / "out/recipe.json").read_text())
    assert (recipe["images"], recipe["encoder"]) == (12, "words")
    assert recipe["prompts"] == [each["prompt"] for each in metadata]
    layout = tmp_path / "out/geneval"
    with np.load(tmp_path / "out/samples.npz", allow_pickle=False) as arrays:
        images = arrays["arr_0"]
    for index in range(12):
        with Image.open(layout / f"{index % 3:05d}/samples/{index // 3:04d}.png") as picture:
            assert np.array_equal(np.asarray(picture), images[index])
    assert CHECK.main([f"images={tmp_path / 'out'}", f"out={tmp_path / 'results.jsonl'}"]) == 2
    assert "give" in capsys.readouterr().err
    assert len(list(layout.glob("*/samples/*.png"))) == 12
    assert json.loads((layout / "00002/metadata.jsonl").read_text()) == metadata[2]
    assert CHECK.main([f"images={layout}", f"out={tmp_path / 'results.jsonl'}"]) == 0
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 12
    plain = tmp_path / "prompts.txt"
    plain.write_text("a red circle\n\na blue square\n")
    assert SAMPLE.main([*line, f"out={tmp_path / 'plain'}", f"prompts={plain}", "images=5"]) == 0
    with np.load(tmp_path / "plain/samples.npz", allow_pickle=False) as arrays:
        assert arrays["arr_0"].shape == (5, 32, 32, 3)

    def complaint(*arguments: str) -> str:
        capsys.readouterr()
        assert SAMPLE.main([*line, f"out={tmp_path / 'wrong'}", *arguments]) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        return sentence

    assert "the model is one of texts, and needs prompts=FILE" in complaint()
    assert "cannot be read" in complaint("prompts=nowhere.txt")
    assert "the model has no classes" in complaint(f"prompts={plain}", "classes=[1]")
    assert "text encoder" in complaint(f"prompts={plain}", "encoder=nowhere")
    (tmp_path / "bad.jsonl").write_text('{"tag": "counting"}\n')
    assert "line 1: it has no prompt" in complaint(f"prompts={tmp_path / 'bad.jsonl'}")


def test_an_interrupted_trial_has_the_scores_of_an_undisturbed_one(tiny: Tiny, tmp_path: Path) -> None:
    """Preempted between two measurements of the captions, and resumed."""
    trainer = {"max_images": 96, "val_every_images": 16}
    config = t2i(tiny, trainer=trainer, sampling={"caption_images": 12, "quality_every_images": 32})
    results = {}
    for name in ("whole", "broken"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "broken":
            requests = StopSignals()

            def ask(progress: Progress, requests: StopSignals = requests) -> None:
                if progress.images == 32:
                    requests.leave = True

            assert run_trial(config, folder, report=ask, requests=requests).status == "preempted"
        results[name] = run_trial(config, folder)
    assert results["broken"].resumed_at == 5
    assert results["broken"].metrics == results["whole"].metrics
    files = [(tmp_path / name / "captions.jsonl").read_text() for name in results]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": {"latent_channels": 1}}, r"needs model\.latent_channels=3"),
        ({"model": {"num_classes": 10, "text_dim": None}}, r"shapes has no classes: it needs model\.num_classes=null"),
        ({"data": {"encoder": None}}, r"needs data\.encoder for its captions"),
        ({"model": {"text_dim": None}}, r"data\.encoder=words is for captions"),
        ({"data": {"name": "digits"}}, r"data\.name=digits"),
        ({"data": {"path": "somewhere"}}, r"data\.path=somewhere is not used by data\.name=shapes"),
    ],
)
def test_contradictions_are_refused(tiny: Tiny, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        t2i(tiny, **changes)
    with pytest.raises(ValueError, match=r"sampling\.caption_images needs data\.name=shapes"):
        tiny(sampling={"caption_images": 10})


def test_an_objective_that_nothing_measures_is_refused(tiny: Tiny) -> None:
    study = from_dict(StudyConfig, {**STUDY, "name": "x", "objectives": [{"metric": METRIC, "direction": "maximize"}]})
    with pytest.raises(ValueError, match=r"sampling\.caption_images=0 does not measure"):
        make_plan(study, to_dict(t2i(tiny)))
    for metric, direction in ((METRIC, "minimize"), ("val/loss_ema", "maximize")):
        with pytest.raises(ValueError, match="needs direction="):
            from_dict(StudyConfig, {**STUDY, "name": "x", "objectives": [{"metric": metric, "direction": direction}]})
    inception = from_dict(StudyConfig, {**STUDY, "name": "x", "objectives": [{"metric": "eval/fid_inception"}]})
    never_dropped = t2i(tiny, model={"condition_dropout": 0.0}, sampling={"caption_images": 12, "guidance_scale": 3.0})
    plain = from_dict(StudyConfig, {**STUDY, "name": "x"})
    with pytest.raises(ValueError, match=r"model\.condition_dropout=0 never drops it: give both scales 1"):
        make_plan(plain, to_dict(never_dropped))
    with pytest.raises(ValueError, match=r"sampling\.quality_features=pixels does not measure"):
        make_plan(inception, to_dict(t2i(tiny, sampling={"quality_images": 20})))
