"""The command line, up to where a study would start."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lina_lab import run
from lina_lab.config import CommandConfig, PathsConfig
from lina_lab.config.fields import COMMAND, SECTIONS, TRIAL, defaults
from lina_lab.config.hints import FOREIGN
from lina_lab.config.history import RENAMED
from lina_lab.study import plan as study_plan
from lina_lab.study.rounds import grown
from lina_lab.study.workspace import Workspace
from lina_lab.util.nested import flatten
from tests.command_line import HEADER, OURS, QUESTION, STUDIES, composed, empty_folder, refused, write  # noqa: F401


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("model.dimm=8", ["model.dimm is not a field", "did you mean model.dim?", "num_heads"]),
        ("modle.dim=8", ["modle is not a field", "did you mean model?", "trainer"]),
        ("+model.extra=8", ["model.extra is not a field", "flow_depth"]),
        ("trainer.epochs=8", ["trainer.epochs is not a field", "max_images"]),
        ("model.attention.kind=sofmax", ["model.attention.kind='sofmax'", "'linear', 'blocks', 'softmax'"]),
        ("model.attention.kind=softmax", ["gate=kv needs kind=linear"]),
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
        ("study.axes.size={}", ["axes.size: its fields need lists of one length, of at least one value (none)"]),
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
        (
            "data=digitz",
            [
                "there is no data set digitz (did you mean digits?); the data sets are digits, mnist5k, emoji, "
                "latents, shards, shapes"
            ],
        ),
        ("data={name:digits}", ["there is no data set {'name': 'digits'}"]),
        ("data=shards", ["data.name=shards needs data.path"]),
        ("--multirun", ["a study lists its own cells"]),
        # Hydra would unpickle the file.
        ("--experimental-rerun=config.pickle", ["--experimental-rerun=config.pickle is not understood"]),
        ("slurm.partition='a\nb'", ["slurm: 'partition'='a\\nb' has a control character"]),
        ("slurm.account='a\x1bb'", ["slurm: 'account'='a\\x1bb' has a control character"]),
        ("slurm.sbatch={comment:'a\rb'}", ["slurm: 'sbatch.comment'='a\\rb' has a control character"]),
        ("slurm.sbatch={-x:node7}", ["sbatch: '-x' is not the long name of an option of sbatch"]),
        ("paths.runs='a\nb'", ["runs='a\\nb': the folder has a control character in its name"]),
        ("--cfg", ["--cfg"]),
        ("--info", ["--info is not understood"]),
    ],
)
def test_a_wrong_argument_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], override: str, parts: list[str]
) -> None:
    sentence = refused(capsys, "study=kv_gate", override)
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


ONE_STAGE = [name for name in STUDIES if name not in ("staged", "linearise")]
"""Studies whose cells all start from drawn weights; for the others see `test_staged_studies.py`."""


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_composes(name: str) -> None:
    plan, paths, command = composed(f"study={name}")
    assert command == CommandConfig()
    assert plan.study.name == name
    assert plan.study.question
    assert paths.runs == "runs"
    assert len(grown(plan, {}).cells) > 1


@pytest.mark.parametrize("name", ONE_STAGE)
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
    assert list(study_plan.audit(plan).changing) == ["heads", "channels of a head"]
    text = study_plan.describe(Workspace.of(plan, PathsConfig(runs="nowhere")))
    assert "device-hours" in text
    # No cell is trained, so what a primary comparison can resolve is not known; all costs are.
    assert "unknown" not in text.replace("is unknown: fewer than two of its seeds are done", "")


@pytest.mark.parametrize("name", ONE_STAGE)
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


def test_an_unknown_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no task i2t; the tasks are classification, diffusion, t2i" in refused(
        capsys, "study=kv_gate", "task=i2t"
    )


def test_a_scale_alone_is_no_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert "name a study with study=NAME" in refused(capsys, "scale=paper")


def test_no_task_and_no_scale_can_be_written() -> None:
    assert composed("study=kv_gate", "task=null", "scale=null", "size=null") == composed("study=kv_gate")


def test_an_unknown_scale_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no scale huge; the scales are paper" in refused(
        capsys, "study=normalization_scaling", "scale=huge"
    )


def test_a_value_on_the_command_line_fixes_its_axis() -> None:
    plan, *_ = composed("study=kv_gate", "model.dim=96", "trainer.max_images=200000", "seed=7")
    assert {cell.config.model.dim for cell in plan.cells} == {96}
    assert {cell.config.seed for cell in plan.cells} == {7}
    assert {cell.config.trainer.max_images for cell in plan.cells} == {200_000}
    assert len(plan.cells) == 9


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
    plan, *_ = composed("study=position", AXIS.strip("'").replace("none,depthwise", "dynamic"))
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
    plan, *_ = composed("study=kv_gate", "size=cpu48")
    assert {(cell.config.model.dim, cell.config.model.num_heads) for cell in plan.cells} == {(48, 4)}


def test_a_data_set_is_chosen_by_its_name() -> None:
    plan, *_ = composed("study=kv_gate", "data=latents", "data.path=here")
    assert {(cell.config.data.name, cell.config.data.path) for cell in plan.cells} == {("latents", "here")}
    assert "data.name" not in plan.study.axes


def test_a_section_on_the_command_line_fixes_its_fields() -> None:
    plan, *_ = composed("study=kv_gate", "model={dim:24}", "model.attention={gate:none}")
    assert {(cell.config.model.dim, cell.config.model.attention.gate) for cell in plan.cells} == {(24, "none")}


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
