"""GenEval's files: whole, partial, damaged; scores, intervals and comparisons."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lina_lab.analysis.geneval import COMMAND
from lina_lab.analysis.load.errors import ResultsError
from lina_lab.analysis.load.geneval_results import IMAGES, TASKS, Results, read_results
from lina_lab.analysis.stats.geneval import compare, scores

Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def images(rate: float = 0.7, seed: int = 0) -> list[dict[str, Any]]:
    """A whole file's lines; images of a prompt are right or wrong together more often than not."""
    generator, rows = np.random.default_rng(seed), []
    for task, prompts in TASKS.items():
        for prompt in range(prompts):
            ease = generator.beta(2 * rate, 2 * (1 - rate))
            for image in range(IMAGES):
                rows.append(
                    {
                        "filename": f"out/{task}{prompt:05}/samples/{image:05}.png",
                        "tag": task,
                        "prompt": f"a photo of {task} {prompt}",
                        "correct": bool(generator.random() < ease),
                        "reason": "",
                    }
                )
    return rows


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_score_is_the_mean_of_the_tasks_and_its_interval_is_clustered_by_prompt(tmp_path: Path) -> None:
    results = read_results(written(tmp_path / "results.jsonl", images()))
    assert len(results.images) == 2212
    table = scores(results).set_index("task")
    assert list(table.index) == [*TASKS, "overall"]
    assert list(table["prompts"][:-1]) == list(TASKS.values())
    by_hand = results.images.groupby("tag")["correct"].mean()
    assert table.loc["overall", "score"] == pytest.approx(by_hand.mean())
    naive = np.sqrt((by_hand * (1 - by_hand) / results.images.groupby("tag").size()).sum()) / len(TASKS)
    assert table.loc["overall", "se"] > 1.2 * naive
    # A bootstrap over prompts gives the same standard error.
    prompts = results.images.groupby(["tag", "prompt"])["correct"].mean().reset_index()
    generator = np.random.default_rng(0)
    groups = [group["correct"].to_numpy() for _, group in prompts.groupby("tag")]
    means = [np.mean([generator.choice(g, len(g)).mean() for g in groups]) for _ in range(2000)]
    assert table.loc["overall", "se"] == pytest.approx(np.std(means), rel=0.1)


def test_two_files_are_compared_prompt_by_prompt(tmp_path: Path) -> None:
    """The second file is right wherever the first is, and sometimes elsewhere: pairing shows it."""
    first = images()
    second = [row | {"correct": row["correct"] or i % 50 == 0} for i, row in enumerate(first)]
    files = [read_results(written(tmp_path / f"{i}.jsonl", rows)) for i, rows in enumerate((first, second))]
    overall = compare(*files).set_index("task").loc["overall"]
    apart = [scores(file).set_index("task").loc["overall", "se"] for file in files]
    assert overall["score"] > 0
    assert overall["low"] > 0
    assert overall["se"] < 0.3 * max(apart)
    assert compare(files[0], files[0])["score"].abs().max() == 0


def simulated(rates: list[float], generator: np.random.Generator) -> Results:
    """A file of a model with these accuracies; prompts differ in how hard they are."""
    tasks = []
    for (task, prompts), rate in zip(TASKS.items(), rates, strict=True):
        ease = generator.beta(rate, 1 - rate, size=(prompts, 1))
        correct = generator.random((prompts, IMAGES)) < ease
        names = np.repeat([f"{task} {prompt}" for prompt in range(prompts)], IMAGES)
        tasks.append(pd.DataFrame({"tag": task, "prompt": names, "correct": correct.ravel()}))
    return Results(name="simulated", images=pd.concat(tasks), missing="")


def constant(correct: list[bool]) -> Results:
    """A file in which each prompt of a task has the same number of right images."""
    rows = [row | {"correct": correct[i % IMAGES]} for i, row in enumerate(images())]
    return Results(name="constant", images=pd.DataFrame(rows), missing="")


def test_a_task_that_is_all_right_or_all_wrong_is_not_certain() -> None:
    """The interval is Clopper and Pearson's with a prompt as the unit, and the mean's has a width too."""
    for right in (True, False):
        table = scores(constant([right] * IMAGES)).set_index("task")
        assert set(table["score"]) == {float(right)}
        reach = 1 - 0.025 ** (1 / 80)
        interval = table.loc["single_object", ["low", "high"]].tolist()
        assert interval == pytest.approx([1 - reach, 1] if right else [0, reach])
        assert (table["high"] - table["low"]).min() > 0.01
        assert table["se"].min() > 0
        assert table["low"].min() >= 0
        assert table["high"].max() <= 1


def test_prompts_that_are_all_half_right_are_not_certain_either() -> None:
    table = scores(constant([True, True, False, False]))
    assert set(table["score"]) == {0.5}
    assert (table["high"] - table["low"]).min() > 0.01


def test_no_difference_and_every_difference_are_not_certain() -> None:
    right, wrong = (constant([value] * IMAGES) for value in (True, False))
    same = compare(right, right)
    assert (same["low"] < -0.01).all()
    assert (same["high"] > 0.01).all()
    better = compare(wrong, right)
    assert set(better["score"]) == {1.0}
    assert better["high"].max() == 1
    assert better["low"].between(0.9, 0.98).all()


def test_intervals_hold_the_truth_near_the_ends_as_often_as_they_say() -> None:
    """Student's t over prompts, cut at 0 and 1 or not, would hold it in 86% of the files."""
    rates, generator = [0.99, 0.98, 0.97, 0.01, 0.02, 0.03], np.random.default_rng(0)
    truth = np.array([*rates, np.mean(rates)])
    files = [scores(simulated(rates, generator)) for _ in range(60)]
    held = np.array([(table["low"] <= truth) & (truth <= table["high"]) for table in files])
    assert held[:, :-1].mean() > 0.92
    assert held[:, -1].mean() > 0.9
    assert min(table["low"].min() for table in files) >= 0
    assert max(table["high"].max() for table in files) <= 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: rows[:-1], "color_attr has 1 prompts without 4 images each; 2,211 of 2,212 images"),
        (lambda rows: rows[4:], "single_object has 79 of 80 prompts; 2,208 of 2,212 images"),
        (lambda rows: [r for r in rows if r["tag"] != "counting"], "counting has 0 of 80 prompts"),
    ],
)
def test_an_incomplete_file_is_refused_or_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change, sentence: str
) -> None:
    path = written(tmp_path / "results.jsonl", change(images()))
    assert COMMAND.main([f"results={path}"]) == 2
    assert sentence in capsys.readouterr().err
    assert COMMAND.main([f"results={path}", "partial=true"]) == 0
    assert f"PARTIAL, not comparable: {sentence}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda text: text[:-20], "line 2212 is not JSON"),
        (lambda text: "[]\n" + text, "line 1 is not an object"),
        (lambda text: text.replace('"correct": true', '"correct": "yes"', 1), "correct='yes' is not a bool"),
        (
            lambda text: text.replace('"tag": "colors"', '"tag": "colours"', 1),
            "tag='colours' is not one of single",
        ),
        (lambda text: text + text.splitlines()[0] + "\n", "1 images are listed twice"),
        (lambda text: "", "has no images"),
    ],
)
def test_damage_is_named_and_partial_does_not_help(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[str], str], sentence: str
) -> None:
    path = written(tmp_path / "results.jsonl", images())
    path.write_text(damage(path.read_text()))
    assert COMMAND.main([f"results={path}", "partial=true"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_separator_of_lines_within_a_prompt_ends_no_line(tmp_path: Path, separator: str) -> None:
    rows = [row | {"prompt": f"{row['prompt']}{separator}end"} for row in images()]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert list(read_results(path).images["prompt"]) == [row["prompt"] for row in rows]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: text.replace("\n", "\n \n", 1),
        lambda text: "\n" + text,
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
    ],
    ids=["empty last line", "empty line within", "empty first line", "byte order mark", "ends of lines of Windows"],
)
def test_what_editors_leave_in_a_file_changes_no_image(tmp_path: Path, change: Callable[[str], str]) -> None:
    path = written(tmp_path / "results.jsonl", images())
    expected = read_results(path).images
    path.write_bytes(change(path.read_text()).encode())
    pd.testing.assert_frame_equal(read_results(path).images, expected)


def test_a_damaged_line_has_its_number_in_the_file_whatever_is_empty_before_it(tmp_path: Path) -> None:
    path = written(tmp_path / "results.jsonl", images())
    path.write_text("\n\n{\n" + path.read_text())
    with pytest.raises(ResultsError, match="line 3 is not JSON"):
        read_results(path)


def test_files_without_common_prompts_and_missing_files_are_refused(tmp_path: Path) -> None:
    one = read_results(written(tmp_path / "one.jsonl", images()))
    other = [row | {"prompt": row["prompt"] + "!"} for row in images()]
    with pytest.raises(ResultsError, match="have no prompt in common"):
        compare(one, read_results(written(tmp_path / "two.jsonl", other)))
    with pytest.raises(ResultsError, match="cannot be read"):
        read_results(tmp_path / "none.jsonl")


def test_a_comparison_of_two_files_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(written(tmp_path / f"{rate}.jsonl", images(rate))) for rate in (0.5, 0.9)]
    assert COMMAND.main([f"results=[{','.join(paths)}]"]) == 0
    out = capsys.readouterr().out
    assert f"{paths[1]} vs. {paths[0]}: +0." in out
    assert ": higher." in out
