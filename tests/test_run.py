"""The command line, up to where a study would start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lina_lab import run
from lina_lab.config import CommandConfig
from lina_lab.config.compose import register_configs
from lina_lab.config.studies import ConfigError, studies_folder
from lina_lab.study import plan as study_plan

STUDIES = sorted(path.stem for path in (Path(__file__).parents[1] / "studies").glob("*.yaml"))


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty folder, where whatever is started would leave something."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lina_lab.run"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    yield
    assert not (tmp_path / "runs").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"studies"}


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
        ("data=shards", ["data.path is for data.name=latents and data.name=shards, which need it"]),
        ("--multirun", ["a study enumerates its own cells"]),
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
    (tmp_path / "studies").mkdir()
    text = (Path(__file__).parents[1] / "studies/normalization_scaling.yaml").read_text()
    linked = text.replace("model.dim: [16, 32, 64]", "model.dim: [16, 32]\n      model.num_heads: [2, 4]")
    assert linked != text
    (tmp_path / "studies/linked.yaml").write_text(linked)
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
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/broken.yaml").write_text(text)
    sentence = refused(capsys, "study=broken")
    assert "studies/broken.yaml is not" in sentence


def test_help_lists_studies_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run.main(["--help"])
    assert stop.value.code == 0
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
    with pytest.raises(SystemExit):
        run.main(["study=normalization_scaling", "model.dim=96", "--cfg", "job"])
    printed = capsys.readouterr().out
    assert "dim: 96" in printed
    assert "name: normalization_scaling" in printed


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_composes(name: str) -> None:
    plan, paths, command = run._compose([f"study={name}"])
    assert command == CommandConfig()
    assert plan.study.name == name
    assert plan.study.question
    assert plan.study.controlled
    assert paths.runs == "runs"
    assert len(plan.cells) > 1


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_the_paper_s_scale(name: str) -> None:
    plan, *_ = run._compose([f"study={name}", "scale=paper", "action=plan"])
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
    text = study_plan.describe(plan, Path("nowhere"))
    assert "device-hours" in text
    assert "unknown" not in text


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_asked_of_text_to_image(name: str) -> None:
    """On captioned shapes; at the paper's scale on shards that hold the captions' states."""
    plan, *_ = run._compose([f"study={name}", "task=t2i"])
    assert plan.study.name == f"{name}_t2i"
    assert plan.study.objectives[1].direction == "maximize"
    for cell in plan.cells:
        assert (cell.config.data.name, cell.config.data.encoder) == ("shapes", "words")
        assert (cell.config.model.num_classes, cell.config.model.text_dim) == (None, 64)
    paper, *_ = run._compose([f"study={name}", "task=t2i", "scale=paper"])
    assert paper.study.name == f"{name}_t2i_paper"
    assert len(paper.cells) >= 3
    for cell in paper.cells:
        assert (cell.config.data.name, cell.config.data.encoder) == ("shards", None)
        assert cell.config.model.num_tokens == 256
        assert cell.config.model.text_length == 256
        assert cell.config.model.dim in (768, 1024, 1536)


def test_what_is_laid_over_is_looked_at(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A part of an unknown task is refused; a broken file of a task that is not chosen is in the way of no study."""
    text = (Path(__file__).parents[1] / "studies/normalization_scaling.yaml").read_text()
    (tmp_path / "studies/task").mkdir(parents=True)
    (tmp_path / "studies/task/t2i.yaml").write_text("- 1")
    (tmp_path / "studies/good.yaml").write_text(text)
    (tmp_path / "studies/odd.yaml").write_text(f"{text}\ntask: {{t2l: {{}}}}\n")
    assert len(run._compose(["study=good"])[0].cells) > 1
    assert "odd.yaml: there is no task t2l; the tasks are t2i" in refused(capsys, "study=odd")
    assert "t2i.yaml holds no sections of fields" in refused(capsys, "study=good", "task=t2i")


def test_an_unknown_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no task i2t; the tasks are t2i" in refused(capsys, "study=kv_gate", "task=i2t")


@pytest.mark.parametrize("scale", ["3", "{paper: 3}"])
def test_a_scale_that_is_none_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, scale: str) -> None:
    (tmp_path / "studies").mkdir()
    text = (Path(__file__).parents[1] / "studies/normalization_scaling.yaml").read_text()
    (tmp_path / "studies/odd.yaml").write_text(f"{text}\nscale: {scale}\n")
    assert "odd.yaml: scale maps the name of a scale" in refused(capsys, "study=odd")


def test_a_scale_alone_is_no_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert "name a study with study=NAME" in refused(capsys, "scale=paper")


def test_an_unknown_scale_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no scale huge; the scales are paper" in refused(
        capsys, "study=normalization_scaling", "scale=huge"
    )


def test_a_value_on_the_command_line_fixes_its_axis() -> None:
    plan, *_ = run._compose(["study=normalization_scaling", "model.dim=96", "trainer.max_images=200000", "seed=7"])
    assert {cell.config.model.dim for cell in plan.cells} == {96}
    assert {cell.config.seed for cell in plan.cells} == {7}
    assert {cell.config.trainer.max_images for cell in plan.cells} == {200_000}
    assert len(plan.cells) == 4


def test_the_studies_are_those_of_the_working_directory(tmp_path: Path) -> None:
    assert studies_folder() == Path(__file__).parents[1] / "studies"
    (tmp_path / "studies").mkdir()
    assert studies_folder() == Path("studies")
    (tmp_path / "studies/broken.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="is not a study"):
        register_configs(["study=broken"])


def test_a_broken_file_is_in_the_way_of_no_other_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "studies").mkdir()
    good = (Path(__file__).parents[1] / "studies/normalization_scaling.yaml").read_text()
    (tmp_path / "studies/good.yaml").write_text(good)
    (tmp_path / "studies/5.yaml").write_text(good)
    (tmp_path / "studies/broken.yaml").write_text("- 1")
    assert len(run._compose(["study=good"])[0].cells) > 1
    assert run._compose(["study='5'"])[0].study.name == "5"
    assert "study=5 is not text to Hydra" in refused(capsys, "study=5")
    with pytest.raises(SystemExit):
        run.main(["--help"])
    assert "broken: cannot be run" in capsys.readouterr().out


def test_a_preset_fixes_the_size() -> None:
    plan, *_ = run._compose(["study=normalization_scaling", "size=cpu48"])
    assert {(cell.config.model.dim, cell.config.model.num_heads) for cell in plan.cells} == {(48, 4)}


def test_a_data_set_is_chosen_by_its_name() -> None:
    plan, *_ = run._compose(["study=kv_gate", "data=latents", "data.path=here"])
    assert {(cell.config.data.name, cell.config.data.path) for cell in plan.cells} == {("latents", "here")}
    assert "data.name" not in plan.study.axes


def test_a_section_on_the_command_line_fixes_its_fields() -> None:
    plan, *_ = run._compose(["study=normalization_scaling", "model={dim:24}", "model.attention={conv:none}"])
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
