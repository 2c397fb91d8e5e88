"""The command line, up to where a study would start."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lina_lab import run
from lina_lab.config import CommandConfig, PathsConfig
from lina_lab.config.compose import CommandLine, compose
from lina_lab.config.fields import COMMAND, SECTIONS, TRIAL, defaults
from lina_lab.config.hints import FOREIGN
from lina_lab.config.history import RENAMED
from lina_lab.study import plan as study_plan
from lina_lab.study.grid import Plan, make_plan
from lina_lab.study.workspace import Workspace
from lina_lab.util.nested import flatten

OURS = Path(__file__).parents[1] / "studies"
STUDIES = sorted(path.stem for path in (OURS / "study").glob("*.yaml"))
HEADER = "# @package _global_\n"
QUESTION = """\
study:
  question: Is it so?
  axes: {size: {model.dim: [16, 32]}}
  size_axis: size
  seeds: [0]
  controlled: []
model: {latent_channels: 1, latent_size: [8, 8], num_classes: 10, num_heads: 4, condition_depth: 1, depth: 2}
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, where whatever is started would leave something."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "runs").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"studies"}


def composed(*arguments: str) -> tuple[Plan, PathsConfig, CommandConfig]:
    found = compose(CommandLine(arguments))
    return make_plan(found.study, found.base, found.overridden), found.paths, found.command


def write(folder: Path, name: str, text: str) -> None:
    """A file of the user's, such as `study/mine`."""
    path = folder / "studies" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("model.dimm=8", ["model.dimm is not a field", "did you mean model.dim?", "num_heads"]),
        ("modle.dim=8", ["modle is not a field", "did you mean model?", "trainer"]),
        ("+model.extra=8", ["model.extra is not a field", "flow_depth"]),
        ("trainer.epochs=8", ["trainer.epochs is not a field", "max_images"]),
        ("model.attention.kind=sofmax", ["model.attention.kind='sofmax'", "'linear', 'softmax' or 'mediator'"]),
        ("model.attention.kind=softmax", ["normalization=subtraction needs kind=linear"]),
        ("model.dim=30", ["dim=30 is not a multiple of num_heads=4"]),
        ("model.dim=wide", ["model.dim='wide'", "valid integer"]),
        ("model.dim=16,32", ["model.dim takes one value"]),
        ("model=3", ["model=3 is a section"]),
        ("model.encoder_attention.kind=softmax", ["model.encoder_attention is null unless it is given whole"]),
        ("study.seeds=[]", ["study.seeds=[]", "at least 1 item"]),
        ("study.axes=3", ["study.axes=3", "dictionary"]),
        ("study.name=../x", ["study.name='../x'"]),
        ("trainer.max_images=0", ["trainer.max_images=0", "greater than 0"]),
        ("model.dim", ["model.dim"]),
        ("model.dim=[", ["no viable alternative"]),
        ("model.dim.x=3", ["model.dim.x is not a field: model.dim has none"]),
        ("model.dim.seed=[1,2]", ["model.dim.seed is not a field: model.dim has none"]),
        ("~model.dim", ["~model.dim would leave the field out"]),
        ("hydra.run.dir=foo", ["hydra.run.dir cannot be set", "paths.runs"]),
        ("study.axes.size={}", ["study.axes.size={} changes nothing"]),
        ("study.objectives=[{metric:val/fid}]", ["study.objectives.0.metric='val/fid'", "'val/loss_raw'"]),
        ("action=go", ["action='go'", "'plan'"]),
        ("workers=0", ["workers=0"]),
        ("study.budget={unit:flops,amount:0}", ["study.budget.amount=0"]),
        ("study.exclude=[{model.dim:[16,32,64]}]", ["exclude leaves no cell"]),
        ("paths.storage=mongodb://x", ["paths.storage='mongodb://x'"]),
        ("paths.runs=a%20b", ["paths: runs=a%20b", "one of %?#"]),
        ("paths.tracking_uri=foo://bar", ["paths.tracking_uri='foo://bar'"]),
        ("optimizer.betas=[1,1]", ["optimizer.betas.0=1", "less than 1"]),
        ("model.dim=${nothing}", ["Interpolation key 'nothing' not found"]),
        ("size=huge", ["there is no size huge", "width1536"]),
        ("size={dim:3}", ["there is no size {'dim': 3}", "width1536"]),
        ("data=digitz", ["there is no data set digitz; the data sets are digits, latents, shards, shapes"]),
        ("data={name:digits}", ["there is no data set {'name': 'digits'}"]),
        ("data=shards", ["data.name=shards needs data.path"]),
        ("--multirun", ["a study lists its own cells"]),
        ("--cfg", ["--cfg"]),
        ("--info", ["--info is not understood"]),
    ],
)
def test_a_wrong_argument_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], override: str, parts: list[str]
) -> None:
    sentence = refused(capsys, "study=normalization_scaling", override)
    assert all(part in sentence for part in parts), sentence


def test_an_unknown_study_is_refused_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "study=nothing").endswith("the studies are " + ", ".join(STUDIES))


def test_no_study_is_refused_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert "study=NAME" in refused(capsys)


def test_a_linked_axis_takes_its_own_values_only(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    axes = "study: {axes: {size: {model.dim: [16, 32], model.num_heads: [2, 4]}}}"
    write(tmp_path, "study/linked", f"{HEADER}defaults: [normalization_scaling, _self_]\n{axes}")
    assert "model.dim=64 is not among the values of the linked axis size" in refused(
        capsys, "study=linked", "model.dim=64"
    )


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


def test_help_lists_studies_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}: " in printed for name in STUDIES)
    for line in (
        "model.attention.normalization = division",
        "One of division, subtraction.",
        "trainer.max_images = 10000",
        "paths.runs = runs",
        "seed = 0",
    ):
        assert line in printed


def test_cfg_shows_the_composed_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["study=normalization_scaling", "model.dim=96", "--cfg", "job"]) == 0
    printed = capsys.readouterr().out
    assert "dim: 96" in printed
    assert "name: normalization_scaling" in printed


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_composes(name: str) -> None:
    plan, paths, command = composed(f"study={name}")
    assert command == CommandConfig()
    assert plan.study.name == name
    assert plan.study.question
    assert plan.study.controlled
    assert paths.runs == "runs"
    assert len(plan.cells) > 1


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_the_paper_s_scale(name: str) -> None:
    plan, *_ = composed(f"study={name}", "scale=paper", "action=plan")
    assert plan.study.name == f"{name}_paper"
    assert {(cell.config.model.dim, cell.config.model.num_heads) for cell in plan.cells} == {
        (768, 12),
        (1024, 16),
        (1536, 16),
    }
    assert plan.study.resources.world_size == 32
    assert {cell.config.max_steps for cell in plan.cells} == {200_000}
    audit = [line.split(" (")[0] for line in study_plan.audit(plan)]
    assert audit == ["heads", "channels of a head"]
    text = study_plan.describe(Workspace.of(plan, PathsConfig(runs="nowhere")))
    assert "device-hours" in text
    assert "unknown" not in text


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_asked_of_text_to_image(name: str) -> None:
    """On captioned shapes; at the paper's scale on shards that hold the captions' states."""
    plan, *_ = composed(f"study={name}", "task=t2i")
    assert plan.study.name == f"{name}_t2i"
    assert plan.study.objectives[1].direction == "maximize"
    for cell in plan.cells:
        assert (cell.config.data.name, cell.config.data.encoder) == ("shapes", "words")
        assert (cell.config.model.num_classes, cell.config.model.text_dim) == (None, 64)
    paper, *_ = composed(f"study={name}", "task=t2i", "scale=paper")
    assert paper.study.name == f"{name}_t2i_paper"
    assert len(paper.cells) >= 3
    for cell in paper.cells:
        assert (cell.config.data.name, cell.config.data.encoder) == ("shards", None)
        assert cell.config.model.num_tokens == 256
        assert cell.config.model.text_length == 256
        assert cell.config.model.dim in (768, 1024, 1536)


def test_a_broken_task_disturbs_only_those_who_choose_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path, "task/odd", f"{HEADER}- 1")
    assert len(composed("study=kv_gate", "task=t2i")[0].cells) > 1
    assert "studies/task/odd.yaml holds no sections of fields" in refused(capsys, "study=kv_gate", "task=odd")


def test_an_unknown_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no task i2t; the tasks are t2i" in refused(capsys, "study=kv_gate", "task=i2t")


@pytest.mark.parametrize("own", ["task", "scale"])
def test_what_a_study_changes_in_a_scale_is_a_file_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, own: str
) -> None:
    write(tmp_path, "study/odd", f"{HEADER}{QUESTION}{own}: {{paper: {{study: {{seeds: [1]}}}}}}")
    assert f"as study_{own}/odd_NAME.yaml next to the folder study" in refused(capsys, "study=odd")


def test_a_scale_alone_is_no_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert "name a study with study=NAME" in refused(capsys, "scale=paper")


def test_no_task_and_no_scale_can_be_written() -> None:
    assert composed("study=kv_gate", "task=null", "scale=null", "size=null") == composed("study=kv_gate")


def test_an_unknown_scale_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no scale huge; the scales are paper" in refused(
        capsys, "study=normalization_scaling", "scale=huge"
    )


def test_a_value_on_the_command_line_fixes_its_axis() -> None:
    plan, *_ = composed("study=normalization_scaling", "model.dim=96", "trainer.max_images=200000", "seed=7")
    assert {cell.config.model.dim for cell in plan.cells} == {96}
    assert {cell.config.seed for cell in plan.cells} == {7}
    assert {cell.config.trainer.max_images for cell in plan.cells} == {200_000}
    assert len(plan.cells) == 4


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
    assert composed("study='5'")[0].study.name == "5"
    assert "study=5 is not text to Hydra" in refused(capsys, "study=5")
    assert run.main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "broken: cannot be run" in printed
    assert "  good: Is it so?" in printed


def test_a_configuration_folder_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--config-dir nowhere is not a folder" in refused(capsys, "study=kv_gate", "--config-dir", "nowhere")


AXIS = "'study.axes.convolution={model.attention.conv:[none,depthwise]}'"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["model.attention.conv=none,depthwise"], AXIS),
        (["model.attention.conv=[none,depthwise]"], AXIS),
        (["-m", "model.attention.conv=none,depthwise"], AXIS),
        (["model.attention.conv=choice(none,depthwise)"], AXIS),
        (["optimizer.lr=choice(1e-3,2e-3)"], "'study.axes.lr={optimizer.lr:[0.001,0.002]}'"),
        (["optimizer.lr=interval(1e-4,1e-2)"], "'study.axes.lr={optimizer.lr:[0.0001,...,0.01]}'"),
        (["model.depth=range(2,5)"], "'study.axes.depth={model.depth:[2,3,4]}'"),
        (["seed=0,1"], "study.seeds=[0,1]"),
        (["paths.runs=a,b"], "paths.runs takes one value: give a command for each"),
        (["size=cpu16,cpu32"], "size takes one value: give a command for each size"),
        (["--multirun"], "a study lists its own cells: make an axis with study.axes.NAME={FIELD:[A,B]}"),
    ],
)
def test_several_values_for_a_field_say_how_to_make_an_axis(
    capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    assert part in refused(capsys, "study=normalization_scaling", *arguments)


def test_a_linked_axis_is_shown_with_its_other_fields(capsys: pytest.CaptureFixture[str]) -> None:
    part = "'study.axes.size={model.dim:[16,32],model.num_heads:[...]}'"
    assert part in refused(capsys, "study=position", "model.dim=16,32")


def test_the_axis_that_is_proposed_is_taken() -> None:
    plan, *_ = composed("study=normalization_scaling", AXIS.strip("'").replace("none,depthwise", "dynamic"))
    assert {cell.config.model.attention.conv for cell in plan.cells} == {"dynamic"}
    plan, *_ = composed("study=kv_gate", "study.axes.lr={optimizer.lr:[0.001,0.002]}", "model.attention.gate=none")
    assert {cell.config.optimizer.lr for cell in plan.cells} == {0.001, 0.002}
    command = composed("study=kv_gate", "slurm.sbatch={exclude:node7}")[2]
    assert command.slurm.sbatch == {"exclude": "node7"}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_word_of_another_project_is_refused_with_ours(capsys: pytest.CaptureFixture[str], name: str) -> None:
    sentence = refused(capsys, "study=kv_gate", f"{name}=3")
    assert FOREIGN[name] in sentence
    assert FOREIGN[name] in refused(capsys, "study=kv_gate", f"+{name}=3")


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        ("trainer.max_epochs=3", "trainer.max_images=N"),
        ("trainer.devices=3", "study.resources.devices=N"),
        ("experiment=kv_gate", "study=NAME"),
        ("callbacks=none", "built in"),
        ("logger.wandb.project=x", "MLflow"),
        ("ckpt_path=last.ckpt", "resumes"),
        ("model._target_=os.system", "a configuration names no code"),
        ("hydra/sweeper=optuna", "study.axes"),
        ("hydra/launcher=submitit_slurm", "launcher=slurm"),
        ("datamodule=mnist", "data=NAME"),
        ("optimized_metric=val/acc", "study.objectives=[{metric:NAME}]"),
    ],
)
def test_what_users_of_lightning_and_hydra_try_first_is_answered(
    capsys: pytest.CaptureFixture[str], argument: str, part: str
) -> None:
    assert part in refused(capsys, "study=kv_gate", argument)


def test_our_words_for_those_of_others_are_fields() -> None:
    names = {*flatten(defaults()), *SECTIONS, *COMMAND, *TRIAL}
    for words in FOREIGN.values():
        for name in re.findall(r"write ([a-z_.]+)=", words):
            assert name in names, name


@pytest.mark.parametrize("old", RENAMED)
def test_an_earlier_name_of_a_field_is_refused_with_today_s(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, old: str
) -> None:
    """On the command line, in a file, and as a field that an axis varies."""
    assert f"{old} is called {RENAMED[old]}" in refused(capsys, "study=kv_gate", f"{old}=3")
    *sections, last = old.split(".")
    node: dict[str, Any] = {last: 3}
    for section in reversed(sections):
        node = {section: node}
    start = f"{HEADER}defaults: [kv_gate, _self_]\n"
    write(tmp_path, "study/mine", start + yaml.safe_dump(node))
    assert f"{old} is called {RENAMED[old]}" in refused(capsys, "study=mine")
    write(tmp_path, "study/mine", start + yaml.safe_dump({"study": {"axes": {"old": {old: [1, 2]}}}}))
    assert f"{old} is called {RENAMED[old]}" in refused(capsys, "study=mine")


def test_a_preset_fixes_the_size() -> None:
    plan, *_ = composed("study=normalization_scaling", "size=cpu48")
    assert {(cell.config.model.dim, cell.config.model.num_heads) for cell in plan.cells} == {(48, 4)}


def test_a_data_set_is_chosen_by_its_name() -> None:
    plan, *_ = composed("study=kv_gate", "data=latents", "data.path=here")
    assert {(cell.config.data.name, cell.config.data.path) for cell in plan.cells} == {("latents", "here")}
    assert "data.name" not in plan.study.axes


def test_a_section_on_the_command_line_fixes_its_fields() -> None:
    plan, *_ = composed("study=normalization_scaling", "model={dim:24}", "model.attention={conv:none}")
    assert {(cell.config.model.dim, cell.config.model.attention.conv) for cell in plan.cells} == {(24, "none")}


def test_a_plan_of_jobs_without_their_environment_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["study=kv_gate", "launcher=slurm", f"slurm.setup={tmp_path}/none.sh", "action=plan"]
    assert run.main(arguments) == 2
    assert (
        capsys.readouterr().err == f"error: slurm.setup={tmp_path}/none.sh cannot be read: No such file or directory\n"
    )


def test_a_plan_over_several_machines_needs_no_rendezvous_yet(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["study=kv_gate", "launcher=torchrun", "study.resources.nodes=2", "action=plan"]) == 0
    assert " 1 HOST PORT" in capsys.readouterr().out
