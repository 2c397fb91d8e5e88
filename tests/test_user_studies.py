"""Studies, tasks and scales of the user's own, beside the built-in ones."""

from pathlib import Path

import pytest

from lina_lab import run
from tests.command_line import HEADER, OURS, QUESTION, STUDIES, composed, empty_folder, refused, write  # noqa: F401

NO_STUDIES = [
    "[]",
    "",
    "study: 3",
    "study: [",
    "model: {dim: 3}",
    "study: {axes: {}}",
    "study: {question: }",
    "study: {question: 3}",
]


@pytest.mark.parametrize("text", NO_STUDIES)
def test_a_file_that_is_no_study_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    write(tmp_path, "study/broken", f"{HEADER}{text}")
    assert "studies/study/broken.yaml is not" in refused(capsys, "study=broken")


ENDLESS = {
    "a circle": ("study: &s {question: x, labels: *s}", "an alias within what it stands for"),
    "nine to the ninth": (
        "\n".join(
            ["a0: &a0 [1,1,1,1,1,1,1,1,1]"] + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
        )
        + "\nstudy: {question: x}",
        "e+08 values with its aliases written out",
    ),
    "deep": (f"study: {{question: x, labels: {'[' * 900}{']' * 900}}}", "nests too deeply"),
}


@pytest.mark.parametrize(("text", "reason"), ENDLESS.values(), ids=ENDLESS)
def test_a_file_without_end_is_refused_before_it_is_written_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, reason: str
) -> None:
    """Hydra writes aliases out, for minutes and into all memory; a parent is read as well."""
    write(tmp_path, "study/endless", f"{HEADER}{text}")
    write(tmp_path, "study/child", f"{HEADER}defaults: [endless, _self_]\nstudy: {{question: y}}")
    for name in ("endless", "child"):
        assert reason in refused(capsys, f"study={name}")
    assert len(composed("study=kv_gate")[0].cells) > 1
    assert run.main(["--help"]) == 0
    assert "endless: cannot be run" in capsys.readouterr().out


def test_a_broken_task_disturbs_only_those_who_choose_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path, "task/odd", f"{HEADER}- 1")
    assert len(composed("study=kv_gate", "task=t2i")[0].cells) > 1
    assert "studies/task/odd.yaml holds no sections of fields" in refused(capsys, "study=kv_gate", "task=odd")


@pytest.mark.parametrize("field", ["controlled", "held_equal"])
def test_a_study_that_says_what_is_equal_is_asked_to_delete_that(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, field: str
) -> None:
    expected = f"study.{field} is not a field of this version: delete it: `lina plan` and reports list what is equal"
    write(tmp_path, "study/old", f"{HEADER}{QUESTION}".replace("  seeds:", f"  {field}: [images seen]\n  seeds:"))
    for arguments in (("study=old",), ("study=kv_gate", f"study.{field}=[images]")):
        assert expected in refused(capsys, *arguments)


@pytest.mark.parametrize("own", ["task", "scale"])
def test_what_a_study_changes_in_a_scale_is_a_file_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, own: str
) -> None:
    write(tmp_path, "study/odd", f"{HEADER}{QUESTION}{own}: {{paper: {{study: {{seeds: [1]}}}}}}")
    assert f"as study_{own}/odd_NAME.yaml next to the folder study" in refused(capsys, "study=odd")


def test_studies_of_the_user_s_stand_beside_ours_and_first(tmp_path: Path) -> None:
    """Those of `--config-dir` before those of the working directory, and both before ours."""
    mine = f"{HEADER}{QUESTION}"
    write(tmp_path, "study/mine", mine)
    write(tmp_path, "study/kv_gate", mine)
    assert [cell.config.model.dim for cell in composed("study=mine")[0].cells] == [16, 32]
    assert len(composed("study=kv_gate")[0].cells) == 2
    assert len(composed("study=locality")[0].cells) == 30
    write(tmp_path / "runs_not", "study/kv_gate", mine.replace("[0]", "[0, 1, 2]"))
    folder = tmp_path / "runs_not/studies"
    for flag in (["--config-dir", str(folder)], [f"--config-dir={folder}"]):
        assert len(composed("study=kv_gate", *flag)[0].cells) == 6
        assert len(composed("study=mine", *flag)[0].cells) == 2
    (tmp_path / "runs_not").rename(tmp_path / "studies/elsewhere")


def test_a_study_may_start_from_another(tmp_path: Path) -> None:
    write(tmp_path, "study/mine", f"{HEADER}defaults: [kv_gate, _self_]\nstudy: {{seeds: [5]}}")
    write(tmp_path, "study/again", f"{HEADER}defaults: [mine, _self_]\nmodel: {{depth: 2}}")
    plan, *_ = composed("study=mine")
    ours, *_ = composed("study=kv_gate")
    assert plan.study.name == "mine"
    assert plan.study.question == ours.study.question
    assert {cell.config.seed for cell in plan.cells} == {5}
    assert len(plan.cells) == len(ours.cells) / 2
    again, *_ = composed("study=again")
    assert {cell.config.model.depth for cell in again.cells} == {2}
    assert again.study.seeds == [5]


def test_a_study_s_own_part_of_a_scale_is_a_file_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}")
    write(tmp_path, "scale/small", f"{HEADER}study: {{seeds: [1]}}\ntrainer: {{max_images: 640}}\n")
    write(tmp_path, "study_scale/mine_small", f"{HEADER}study: {{seeds: [7]}}\n")
    plan, *_ = composed("study=mine", "scale=small")
    assert plan.study.name == "mine_small"
    assert {(cell.config.seed, cell.config.trainer.max_images) for cell in plan.cells} == {(7, 640)}
    assert composed("study=kv_gate", "scale=small")[0].study.seeds == [1]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["task=t2i"], "mine_t2i"),
        (["study.name=exact"], "exact"),
        (["study.name=exact", "task=t2i", "scale=paper"], "exact"),
    ],
)
def test_a_name_is_the_option_s_unless_the_command_line_gives_one(
    tmp_path: Path, arguments: list[str], name: str
) -> None:
    write(tmp_path, "study/mine", f"{HEADER}defaults: [locality, _self_]\n")
    assert composed("study=mine", *arguments)[0].study.name == name


def test_a_name_in_a_file_is_the_study_s(tmp_path: Path) -> None:
    write(tmp_path, "study/mine", f"{HEADER}defaults: [locality, _self_]\nstudy: {{name: other}}\n")
    assert composed("study=mine")[0].study.name == "other"
    assert composed("study=mine", "task=t2i")[0].study.name == "other_t2i"


def test_a_file_without_its_first_line_is_refused_with_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path, "study/mine", QUESTION)
    assert "studies/study/mine.yaml needs the line # @package _global_" in refused(capsys, "study=mine")


def test_a_study_where_earlier_versions_had_it_is_named_with_where_to_move_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also one of our names, which would be another study than the user's."""
    for name in ("mine", "kv_gate"):
        write(tmp_path, name, QUESTION)
        sentence = refused(capsys, f"study={name}")
        assert f"move it to studies/study/{name}.yaml, and begin it with the line # @package _global_" in sentence
    assert len(composed("study=locality")[0].cells) == 30
    assert run.main(["--help"]) == 0
    assert "  mine: cannot be run, studies/mine.yaml lies where" in capsys.readouterr().out


def test_a_parent_without_its_first_line_is_refused_with_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path, "study/parent", QUESTION)
    write(tmp_path, "study/mine", f"{HEADER}defaults: [/study/parent, _self_]\n")
    assert "a file that the study starts from lacks the line # @package _global_" in refused(capsys, "study=mine")


@pytest.mark.parametrize("text", ["- 1", "3", "study: 3", "defaults: 3", "study: {question: 3}"])
def test_help_stands_every_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    write(tmp_path, "study/parent", f"{HEADER}{text}")
    write(tmp_path, "study/mine", f"{HEADER}defaults: [parent, _self_]\n")
    assert run.main(["-h"]) == 0
    assert "  parent: cannot be run" in capsys.readouterr().out


def test_a_seed_is_not_for_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}seed: 3\n")
    assert "studies/study/mine.yaml: seed and hydra are not for a study to set" in refused(capsys, "study=mine")


def test_a_study_that_starts_from_none_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path, "study/mine", f"{HEADER}defaults: [nothing, _self_]\n")
    assert refused(capsys, "study=mine").endswith("there is no file study/nothing.yaml to start from")
    write(tmp_path, "study/loop", f"{HEADER}defaults: [loop, _self_]\n")
    assert "start from each other in a circle" in refused(capsys, "study=loop")
    assert run.main(["--help"]) == 0
    capsys.readouterr()


def test_a_broken_file_is_in_the_way_of_no_other_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "study/good", f"{HEADER}{QUESTION}")
    write(tmp_path, "study/5", f"{HEADER}{QUESTION}")
    write(tmp_path, "study/broken", "- 1")
    assert len(composed("study=good")[0].cells) > 1
    assert composed("study='5'")[0].study.name == composed("study=5")[0].study.name == "5"
    assert run.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "broken: cannot be run" in printed
    assert "  good: Is it so?" in printed


def test_a_configuration_folder_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--config-dir nowhere is not a folder" in refused(capsys, "study=kv_gate", "--config-dir", "nowhere")


@pytest.mark.parametrize("folder", ["studies/loose", "studies/deep/study"])
def test_a_study_is_chosen_by_the_path_of_its_file(tmp_path: Path, folder: str) -> None:
    """Relative or absolute, in a folder of any name; it starts from ours, or from a file beside it."""
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "mine.yaml").write_text(f"{HEADER}defaults: [feature_map, _self_]\nstudy: {{seeds: [5]}}\n")
    (tmp_path / folder / "kv-2.yaml").write_text(f"{HEADER}defaults: [mine, _self_]\nmodel: {{depth: 4}}\n")
    ours = composed("study=feature_map")[0]
    for path in (f"{folder}/mine.yaml", f"./{folder}/mine.yaml", f"{folder}/mine", f"{tmp_path}/{folder}/mine.yaml"):
        plan, *_ = composed(f"study={path}")
        assert (plan.study.name, {cell.config.seed for cell in plan.cells}) == ("mine", {5})
        assert plan.study.axes == ours.study.axes
    plan, *_ = composed(f"study={folder}/kv-2.yaml", "task=t2i")
    assert plan.study.name == "kv-2_t2i"
    assert {(cell.config.seed, cell.config.model.depth) for cell in plan.cells} == {(5, 4)}
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}")
    assert composed("study=mine")[0].study.seeds == [0]
    assert composed(f"study={folder}/mine.yaml")[0].study.seeds == [5]


def test_a_file_s_own_folder_in_hydra_s_layout_is_searched_too(tmp_path: Path) -> None:
    write(tmp_path / "studies", "study/mine", f"{HEADER}{QUESTION}")
    write(tmp_path / "studies", "scale/small", f"{HEADER}study: {{seeds: [1]}}\n")
    write(tmp_path / "studies", "study_scale/mine_small", f"{HEADER}study: {{seeds: [7]}}\n")
    assert composed("study=studies/studies/study/mine.yaml", "scale=small")[0].study.seeds == [7]
    assert composed("study=kv_gate", "scale=studies/studies/scale/small.yaml")[0].study.seeds == [1]


def test_a_path_without_a_study_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/loose.yaml").write_text(QUESTION)
    (tmp_path / "studies/mine.yml").write_text(f"{HEADER}{QUESTION}")
    assert "study=nowhere.yaml: there is no file nowhere.yaml" in refused(capsys, "study=nowhere.yaml")
    assert "study=nowhere.yaml: there is no file" in refused(capsys, "study=nowhere.yaml", "action=status")
    assert "there is no file studies/other.yaml" in refused(capsys, "study=studies/other")
    assert "studies/loose.yaml needs the line # @package" in refused(capsys, "study=studies/loose.yaml")
    assert "Hydra reads files that end in .yaml; rename it" in refused(capsys, "study=studies/mine.yml")
    assert "write study=studies/loose.yaml" in refused(capsys, "studies/loose.yaml")
    assert "write study=kv_gate" in refused(capsys, "kv_gate")


def test_a_file_that_is_named_without_its_ending_is_pointed_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "study/mine", f"{HEADER}{QUESTION}")
    monkeypatch.chdir(tmp_path / "studies/study")
    assert "there is no study mine (for the file mine.yaml, write study=mine.yaml)" in refused(capsys, "study=mine")
    assert composed("study=mine.yaml")[0].study.name == "mine"


def test_status_takes_the_path_of_a_study(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path, "loose/mine", f"{HEADER}{QUESTION}")
    assert run.main(["study=studies/loose/mine.yaml", "action=status"]) == 1
    assert "there is no study mine under" in capsys.readouterr().err
