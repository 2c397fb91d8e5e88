"""Tuning and stopping on the command line and in a user's file: what they compose to, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest

from lina_lab import run
from lina_lab.study.rounds import grown
from tests.command_line import HEADER, QUESTION, composed, empty_folder, refused, write

__all__ = ["empty_folder"]

TWO = QUESTION.replace("axes: {", "axes: {normalization: {model.attention.normalization: [division, subtraction]}, ")
PRIMARY = "study.primary={axis:normalization,treatment:subtraction,baseline:division}"


@pytest.fixture(autouse=True)
def mine(tmp_path: Path) -> None:
    write(tmp_path, "study/mine", HEADER + TWO)


def test_tuning_is_written_on_the_command_line() -> None:
    plan, _, _ = composed(
        "study=mine", "study.tune={optimizer.lr:[0.001,0.002,4e-3]}", "study.tuning.seeds=[7]", "study.tuning.extend=1"
    )
    assert plan.study.tune == {"optimizer.lr": [0.001, 0.002, 0.004]}
    cells = grown(plan, {}).cells
    assert len(cells) == 2 * 2 * 3
    assert {cell.config.optimizer.lr for cell in cells} == {0.001, 0.002, 0.004}
    assert {cell.config.seed for cell in cells} == {7}


def test_tuning_and_stopping_are_written_in_a_file(tmp_path: Path) -> None:
    lines = [
        "defaults: [mine, _self_]",
        "study:",
        "  tune: {optimizer.lr: [0.001, 0.002, 0.004]}",
        "  tuning: {sampler: tpe, trials: 6, racing: true, seeds: [10, 11, 12, 13, 14]}",
        "  primary: {axis: normalization, treatment: subtraction, baseline: division, margin: 0.01}",
        "  until: {primary: resolved, max_seeds: 16}",
    ]
    write(tmp_path, "study/tuned", HEADER + "\n".join(lines) + "\n")
    study = composed("study=tuned")[0].study
    assert (study.tuning.sampler, study.tuning.racing) == ("tpe", True)
    assert study.until is not None
    assert (study.until.primary, study.until.max_seeds) == ("resolved", 16)
    assert study.primary is not None
    assert study.primary.margin == 0.01


def test_sizes_may_be_numbers() -> None:
    sized = PRIMARY.replace("}", ",size:16}")
    study = composed("study=mine", "study.tune={optimizer.lr:[1,2,3]}", "study.tuning.sizes=[32]", sized)[0].study
    assert study.tuning.sizes == ["32"]
    assert study.primary is not None
    assert study.primary.size == "16"


def test_stopping_is_written_on_the_command_line() -> None:
    study = composed("study=mine", PRIMARY, "study.until={width:0.01,max_seeds:8}")[0].study
    assert study.until is not None
    assert study.until.width == 0.01


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study.tune={optimizer.lr:[0.001]}"], "tune.optimizer.lr=[0.001] needs at least three different values"),
        (["study.tune={optimizer.lr:[0.001,-1,2]}"], "study.tune.optimizer.lr.1=-1: input should be greater than 0"),
        (["study.tune={optimizer.lrr:[1,2,3]}"], "tune: optimizer.lrr is not a field of a trial"),
        (["study.tune={seed:[1,2,3]}"], "tune: seed is not a field to tune"),
        (["study.tune={optimizer:[1,2,3]}"], "tune: optimizer is not a field of a trial"),
        (["study.tune={model.dim:[16,32,64]}"], "tune: model.dim is also varied by an axis"),
        (["study.tune={model.depth:[2,4,6]}"], "model.depth=2.0: input should be a valid integer"),
        (["study.tune={optimizer.lr:[1,2,3],ema.decay:[0.1,0.2,0.3]}"], "tune: one field is tuned at a time"),
        (
            ["study.tune={optimizer.lr:[1,2,3]}", "study.tuning.seeds=[5,0]"],
            "tuning.seeds: [0] are seeds of the study too",
        ),
        (["study.tuning.seeds=[5,5]"], "study.tuning: seeds=[5, 5] names a seed twice"),
        (["study.tuning.racing=true"], "study.tuning: racing needs at least 5 seeds of tuning"),
        (
            ["study.tune={optimizer.lr:[1,2,3]}", "study.tuning.sampler=tpe", "study.tuning.trials=3"],
            "tuning.trials=3 must exceed the values of tune.optimizer.lr for sampler=tpe",
        ),
        (
            ["study.tune={optimizer.lr:[1,2,3]}", "study.tuning.sizes=['64']"],
            "tuning.sizes: 64 is not one of the sizes",
        ),
        (["study.tune={optimizer.lr:[1,2,3]}", "seed=1000"], "seed=1000 is one of study.tuning.seeds [1000, 1001]"),
        (["study.until={primary:resolved,max_seeds:8}"], "until needs a primary comparison to look at"),
        ([PRIMARY, "study.until={max_seeds:8}"], "give either primary=resolved or width=NUMBER"),
        (
            [PRIMARY, "study.seeds=[0,1,2]", "study.until={width:1,max_seeds:2}"],
            "until.max_seeds=2 is below the 3 seeds of the start",
        ),
        (
            [PRIMARY.replace("}", ",quantity:growth}"), "study.axes.size={model.dim:[16]}"],
            "primary.quantity=growth needs two sizes",
        ),
        ([PRIMARY, "study.primary.margn=1"], "study.primary.margn is not a field (did you mean study.primary.margin?)"),
        (["study.primary.margin=1"], "study.primary is null unless it is given whole"),
    ],
)
def test_bad_tuning_and_stopping_are_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in refused(capsys, "study=mine", *arguments)


def declare(tmp_path: Path) -> None:
    """Write a study with a primary comparison and a rule to stop."""
    primary = "  primary: {axis: normalization, treatment: subtraction, baseline: division, margin: 0.5}\n"
    until = "  until: {primary: resolved, max_seeds: 16}\n"
    write(tmp_path, "study/declared", HEADER + "defaults: [mine, _self_]\nstudy:\n" + primary + until)


def test_one_field_of_a_section_that_the_study_gives_is_changed_alone(tmp_path: Path) -> None:
    declare(tmp_path)
    study = composed("study=declared", "study.primary.margin=0.01", "study.until.max_seeds=4")[0].study
    assert study.primary is not None
    assert study.until is not None
    assert (study.primary.treatment, study.primary.margin) == ("subtraction", 0.01)
    assert (study.until.primary, study.until.max_seeds) == ("resolved", 4)


def test_a_section_that_is_given_whole_replaces_that_of_the_study(tmp_path: Path) -> None:
    declare(tmp_path)
    other = PRIMARY.replace("treatment:subtraction,baseline:division", "treatment:division,baseline:subtraction")
    study = composed("study=declared", other, "study.until={width:0.01,max_seeds:8}")[0].study
    assert study.primary is not None
    assert study.until is not None
    assert (study.primary.treatment, study.primary.margin) == ("division", None)
    assert (study.until.primary, study.until.width) == (None, 0.01)


def test_the_help_has_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for field in ("primary", "tune", "tuning.sampler", "tuning.racing", "tuning.extend", "tuning.sizes", "until"):
        assert re.search(rf"^  study\.{re.escape(field)} = ", printed, re.MULTILINE), field


def test_a_plan_says_what_is_tuned_and_what_follows_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    tune: list[Any] = ["study.tune={optimizer.lr:[0.001,0.002,0.004]}", "study.tuning.extend=1", PRIMARY]
    assert run.main(["study=mine", "action=plan", *tune, "study.seeds=[0,1]", "study.until={width:1,max_seeds:5}"]) == 0
    printed = capsys.readouterr().out
    assert "| 0.001 0.002 0.004 |" in printed
    assert (
        "Tuning of optimizer.lr: at most 32 cells, for 4 variants and sizes; then 8 cells of the comparison" in printed
    )
    assert "Until the primary comparison is answered, at most 6 cells more" in printed
    assert "In all at most 46 cells, " in printed
    assert (
        "What can be resolved of the primary comparison (val/loss_ema, normalization=subtraction minus "
        "normalization=division, size=32) is unknown: fewer than two of its seeds are done."
    ) in printed
