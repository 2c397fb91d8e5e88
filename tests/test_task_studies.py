"""Packaged studies of classification and diffusion: their plans, their sizes, and what they refuse."""

import pytest

from lina_lab.config import LinaConfig
from lina_lab.config.metrics import METRICS
from lina_lab.model.count import parameters
from lina_lab.study import plan as study_plan
from lina_lab.study.rounds import grown
from tests.command_line import STUDIES, composed, empty_folder, refused  # noqa: F401

TASKS = ("classification", "diffusion")
OF_STAGES = ("linearise", "staged")
AXES_OF_TASKS = [name for name in STUDIES if "model.task" in str(composed(f"study={name}")[0].study.axes)]
"""Studies that compare tasks, so that none is chosen beside them."""
EACH = [name for name in STUDIES if name not in (*OF_STAGES, *AXES_OF_TASKS)]
SOFTMAX = {"kind": "softmax", "conv": "none", "gate": "none"}
INLINE = {"feature_map": "identity", "normalization": "subtraction", "conv": "dynamic2d", "conv_kernel": 3}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", EACH)
def test_every_study_of_one_stage_can_be_asked_of_a_task(name: str, task: str) -> None:
    plan, *_ = composed(f"study={name}", f"task={task}")
    assert plan.study.name == f"{name}_{task}"
    cells = grown(plan, {}).cells
    assert len(cells) > 1
    assert {(c.config.model.task, c.config.data.name, c.config.model.num_tokens) for c in cells} == {
        (task, "mnist5k", 49)
    }
    for objective in plan.study.objectives:
        assert all(METRICS[objective.metric].not_measured(cell.config) is None for cell in cells)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", EACH)
def test_a_task_has_the_paper_s_scale(name: str, task: str) -> None:
    if (name, task) == ("position", "diffusion"):
        pytest.skip("heads of SiT-XL have 72 channels, see below")
    plan, *_ = composed(f"study={name}", f"task={task}", "scale=paper")
    found = {(c.config.model.dim, c.config.model.num_heads, c.config.model.depth) for c in plan.cells}
    if task == "classification":
        assert found == {(192, 6, 12), (320, 10, 12), (384, 12, 12)}
    else:
        assert found == {(384, 6, 12), (768, 12, 12), (1024, 16, 24), (1152, 16, 28)}
    assert {(c.config.model.norm_placement, c.config.data.name) for c in plan.cells} == {("before", "shards")}
    lines = study_plan.audit(plan).changing
    assert "heads" in lines


def models_of_paper(task: str, attention: dict[str, object]) -> list[LinaConfig]:
    value = ",".join(f"{name}:{part}" for name, part in ({"gate": "none"} | attention).items())
    plan, *_ = composed("study=learning_rate", f"task={task}", "scale=paper", f"model.attention={{{value}}}")
    return sorted({cell.config.model for cell in plan.cells}, key=lambda model: model.dim)


def test_diffusion_models_with_softmax_attention_have_the_parameters_of_sit() -> None:
    """The published numbers are rounded to millions; the architecture is the same."""
    millions = [parameters(model).total / 1e6 for model in models_of_paper("diffusion", SOFTMAX)]
    assert millions == pytest.approx([33, 130, 458, 675], rel=0.01)


def test_classifiers_with_inline_attention_have_about_the_parameters_of_inline_deit() -> None:
    """The published models have learned positions and a class token, S and B more of them for more pixels."""
    millions = [parameters(model).total / 1e6 for model in models_of_paper("classification", INLINE)]
    assert millions == pytest.approx([6.5, 16.7, 23.8], rel=0.02)


def test_the_paper_s_recipes_are_those_of_the_sources() -> None:
    deit, sit = (composed("study=learning_rate", f"task={task}", "scale=paper")[0].cells[0].config for task in TASKS)
    assert (deit.trainer.max_images, deit.optimizer.warmup_images) == (300 * 1_281_167, 20 * 1_281_167)
    rate = 1e-3 * deit.optimizer.final_rate
    assert (deit.optimizer.schedule, deit.optimizer.clip_norm, rate) == ("cosine", 5.0, pytest.approx(5e-6))
    assert (deit.optimizer.weight_decay, deit.model.label_smoothing) == (0.05, 0.1)
    assert (sit.max_steps, sit.data.batch_size, sit.optimizer.schedule) == (400_000, 256, "constant")
    assert (sit.optimizer.weight_decay, sit.ema.decay, sit.ema.every_n_steps) == (0, 0.9999, 1)
    assert sit.model.num_tokens == 256


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("study=linearise", "task=classification"), "error: model.task=classification cannot be distilled"),
        (("study=linearise", "task=diffusion"), "error: model.task=diffusion cannot be distilled"),
        (("study=staged", "task=classification"), "error: data.name=mnist5k needs model.latent_channels=1 and"),
        (("study=position", "task=diffusion", "scale=paper"), "position=rotary needs heads of a multiple of 32 chan"),
        (("study=locality", "task=classification", "model.num_classes=null"), "task=classification needs num_classes"),
        (
            ("study=locality", "task=classification", "model.num_classes=null", "model.text_dim=8"),
            "task=classification needs num_classes",
        ),
        (
            ("study=locality", "task=diffusion", "model.num_classes=null", "model.text_dim=8"),
            "data.name=mnist5k has no captions: it needs model.text_dim=null",
        ),
        (("study=locality", "task=classification", "sampling.quality_images=10"), "quality_images must be 0"),
        (("study=kv_gate", "task=diffusion", "model.attention.gate=memory"), "gate=memory needs a multiple of 4 token"),
        (("study=locality", "model.task=segmentation"), "'generation', 'classification' or 'diffusion'"),
        (("study=locality", "task=segmentation"), "the tasks are classification, diffusion, t2i"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_a_task_cannot_have_is_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in refused(capsys, *arguments)
