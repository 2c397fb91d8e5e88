"""Pictures of shapes are pure functions of their number, and the checker knows right from wrong."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from lina_lab.analysis.load.geneval_results import read_results
from lina_lab.analysis.stats.geneval import scores
from PIL import Image

from lina_lab.commands.check import COMMAND as CHECK
from lina_lab.commands.shapes import COMMAND as WRITE
from lina_lab.data.scenes import COLORS, SHAPES, TASKS, render, scene
from lina_lab.data.shards.sources import find_images
from lina_lab.evaluation.prompts.detect import detect
from lina_lab.evaluation.prompts.judge import judge

SCENES = [scene(0, index) for index in range(240)]


def test_a_scene_is_a_function_of_seed_and_number() -> None:
    assert scene(0, 17) == SCENES[17]
    assert scene(1, 17) != SCENES[17]
    assert np.array_equal(render(SCENES[17], 64), render(scene(0, 17), 64))
    assert len({made.caption for made in SCENES}) > 60
    assert Counter(made.metadata["tag"] for made in SCENES) == dict.fromkeys(TASKS, 40)


@pytest.mark.parametrize("resolution", [64, 96, 128])
def test_every_picture_is_what_its_caption_asks_for(resolution: int) -> None:
    wrong = [(m.caption, judge(render(m, resolution), m.metadata)) for m in SCENES]
    assert [(caption, reason) for caption, (correct, reason) in wrong if not correct] == []


def test_most_pictures_are_right_at_the_least_size() -> None:
    """24 pixels a side, as `task=t2i` has them: what a perfect model would score is not quite 1."""
    right = [judge(render(made, 24), made.metadata)[0] for made in SCENES]
    assert np.mean(right) > 0.95


def test_patches_are_the_items() -> None:
    for made in SCENES[:60]:
        found = Counter((patch.shape, patch.color) for patch in detect(render(made, 64)).patches)
        assert found == Counter((item.shape, item.color) for item in made.items)


def test_noise_and_blur_are_tolerated() -> None:
    generator, right = np.random.default_rng(0), 0
    for made in SCENES:
        noisy = render(made, 64) + generator.normal(0, 12, (64, 64, 3))
        right += judge(np.clip(noisy, 0, 255).astype(np.uint8), made.metadata)[0]
    assert right >= 0.97 * len(SCENES)


def test_another_caption_does_not_hold() -> None:
    """But for those that ask for less: `a circle` holds of `a red circle`."""
    pictures = [render(made, 64) for made in SCENES]
    rates = {}
    for task in TASKS:
        mine = [i for i, made in enumerate(SCENES) if made.metadata["tag"] == task]
        pairs = [(i, j) for i in mine for j in mine if SCENES[i].caption != SCENES[j].caption]
        rates[task] = np.mean([judge(pictures[j], SCENES[i].metadata)[0] for i, j in pairs])
    for task in ("single_object", "counting", "colors"):
        assert rates[task] == 0
    # The same caption the other way round.
    assert rates["two_object"] < 0.35
    assert rates["position"] < 0.35
    assert rates["color_attr"] < 0.05


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"include": [{"class": "circle", "count": 2}]}, "1 of 2 circle"),
        ({"include": [{"class": "square", "count": 1}]}, "0 of 1 square"),
        ({"include": [{"class": "circle", "count": 1, "color": "blue"}]}, "0 of 1 blue circle; it is red"),
    ],
)
def test_the_reason_is_named(change: dict[str, object], sentence: str) -> None:
    one = next(made for made in SCENES if made.caption == "a red circle")
    assert judge(render(one, 64), one.metadata) == (True, "")
    assert judge(render(one, 64), {**one.metadata, **change}) == (False, sentence)
    three = next(made for made in SCENES if made.caption == "three circles")
    two = {**three.metadata, "include": [{"class": "circle", "count": 2}]}
    assert judge(render(three, 64), two) == (False, "3 circles in place of 2")
    above = next(made for made in SCENES if " above " in made.caption)
    flipped = render(above, 64)[::-1]
    correct, reason = judge(flipped, above.metadata)
    # A triangle that stands on its head fills as much.
    assert not correct
    assert " above a " in reason


def test_a_picture_of_nothing_is_wrong() -> None:
    blank, grey = (np.full((64, 64, 3), level, np.uint8) for level in (255, 128))
    for made in SCENES[:12]:
        assert not judge(blank, made.metadata)[0]
        assert not judge(grey, made.metadata)[0]


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ([1], "it needs a tag of"),
        ({"tag": "counting", "include": []}, "it needs a prompt"),
        ({"tag": "counting", "prompt": "x", "include": []}, "it needs a list include"),
        ({"tag": "counting", "prompt": "x", "include": [{"class": "cat", "count": 1}]}, "it needs classes of"),
        ({"tag": "counting", "prompt": "x", "include": [{"class": "circle"}]}, "it needs a count"),
        ({"tag": "counting", "prompt": "x", "include": [{"class": "circle", "count": "2"}]}, "it needs a count"),
        (
            {"tag": "position", "prompt": "x", "include": [{"class": "circle", "count": 1, "position": ["above", 0]}]},
            "it needs a position with the index of an earlier entry",
        ),
    ],
)
def test_metadata_that_is_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metadata: object, sentence: str
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    (tmp_path / "0.json").write_text(json.dumps(metadata))
    assert CHECK.main([f"images={tmp_path}", f"out={tmp_path / 'results.jsonl'}"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("resolution", [24, 64])
def test_a_picture_of_noise_is_wrong(resolution: int) -> None:
    """As models generate that have learned nothing; one could find any shape in it."""
    generator = np.random.default_rng(0)
    size = (resolution, resolution, 3)
    for made in SCENES[:12]:
        noises = (
            generator.integers(0, 256, size),
            128 + 90 * generator.normal(size=size),
            235 + generator.normal(size=size),
        )
        for noise in noises:
            assert not judge(np.clip(noise, 0, 255).astype(np.uint8), made.metadata)[0]


def test_the_commands_write_what_cache_and_geneval_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, results = tmp_path / "pictures", tmp_path / "results.jsonl"
    assert WRITE.main([f"out={folder}", "images=24", "resolution=64"]) == 0
    source = find_images(folder)
    assert (len(source.names), source.classes) == (24, None)
    assert CHECK.main([f"images={folder}", f"out={results}"]) == 0
    assert "24 of 24 are what their captions ask for" in capsys.readouterr().out
    table = scores(read_results(results, partial=True))
    assert list(table["score"]) == [1.0] * 7
    Image.new("RGB", (64, 64)).save(folder / "0000000.png")
    assert CHECK.main([f"images={folder}", f"out={results}"]) == 0
    assert json.loads(results.read_text().splitlines()[0])["correct"] is False
    (folder / "0000003.json").unlink()
    assert CHECK.main([f"images={folder}", f"out={results}"]) == 2
    assert "0000003.json is not there: it says what the picture must show" in capsys.readouterr().err
    assert CHECK.main([f"images={tmp_path}", f"out={results}"]) == 2
    assert set(SHAPES) == {"circle", "square", "triangle"}
    assert len(COLORS) == 4
