"""The built-in studies with stages: what follows what, and the authors' recipe at the paper's scale."""

from pathlib import Path

import pytest

from lina_lab.config import LinaConfig
from lina_lab.model import LINA, save_model
from lina_lab.records.status import Phase
from lina_lab.study.cost import flops_per_image, memory_bytes
from lina_lab.study.grid import Cell, Plan
from lina_lab.study.lineage import total_flops
from tests.command_line import composed, empty_folder  # noqa: F401

RECIPE = {
    # Side of the latents -> pixels, rate, images a step, images, folder.
    32: (256, 2e-4, 768, 28_000_000, "data/text256"),
    64: (512, 1e-4, 192, 28_000_000, "data/text512"),
    128: (1024, 5e-5, 48, 16_000_000, "data/text1024"),
}


def way(plan: Plan, name: str) -> Cell:
    """The cell of a way with the study's first seed."""
    return next(cell for cell in plan.cells if plan.study.point_name("way", cell.axes) == name)


def source(plan: Plan, cell: Cell) -> Cell:
    return next(other for other in plan.cells if other.config_hash == cell.config.start.cell)


@pytest.mark.parametrize("arguments", [(), ("task=t2i",)], ids=["alone", "as text to image"])
def test_each_resolution_starts_from_the_one_before(arguments: tuple[str, ...]) -> None:
    plan, _, _ = composed("study=staged", *arguments)
    for name, gates in (("interpolated", "interpolate"), ("restarted", "restart")):
        last = way(plan, f"{name} gates")
        medium = source(plan, last)
        assert medium is way(plan, f"medium, {name}")
        assert source(plan, medium) is way(plan, "small")
        assert [c.config.model.latent_size[0] for c in (way(plan, "small"), medium, last)] == [12, 24, 48]
        assert (medium.config.start.gates, last.config.start.gates) == (gates, gates)
    assert {plan.study.point_name("way", c.axes) for c in plan.cells if c.phase is Phase.COMPARISON} == {
        "interpolated gates",
        "restarted gates",
        "from scratch",
    }


@pytest.mark.parametrize("arguments", [(), ("task=t2i",), ("scale=paper",), ("task=t2i", "scale=paper")], ids=str)
@pytest.mark.parametrize("study", ["staged", "linearise"])
def test_what_is_compared_costs_the_same_in_all(study: str, arguments: tuple[str, ...]) -> None:
    plan, _, _ = composed(f"study={study}", *arguments)
    flops = [total_flops(cell) for cell in plan.cells if cell.phase is Phase.COMPARISON]
    assert len(flops) >= 3
    assert max(flops) / min(flops) < 1.02


@pytest.mark.parametrize("arguments", [("scale=paper",), ("task=t2i", "scale=paper")], ids=str)
def test_the_paper_s_stages_have_the_authors_recipe(arguments: tuple[str, ...]) -> None:
    plan, _, _ = composed("study=staged", *arguments)
    staged = [way(plan, name) for name in ("small", "medium, restarted", "restarted gates")]
    for cell in staged:
        config = cell.config
        pixels, rate, batch, images, folder = RECIPE[config.model.latent_size[0]]
        assert pixels == 8 * config.model.latent_size[0]
        assert (config.optimizer.lr, config.data.batch_size, config.trainer.max_images) == (rate, batch, images)
        assert config.optimizer.warmup_images == 10_000 * batch
        assert (config.optimizer.weight_decay, config.ema.decay, config.ema.every_n_steps) == (0.02, 0.99, 100)
        assert config.trainer.precision == "bf16-mixed"
        assert config.model.gradient_checkpointing
        assert (config.model.latent_channels, config.model.text_dim, config.model.num_classes) == (4, 2560, None)
        assert config.data.path == folder
        plan.study.resources.check_batch(batch)
        # On a GPU of 80 GB.
        assert memory_bytes(config, plan.study.resources) / 2**30 < 70
    assert [c.config.model.num_tokens for c in staged] == [256, 1024, 4096]
    assert len({c.config.model.num_tokens for c in plan.cells if c.phase is Phase.COMPARISON}) == 1


def test_the_first_stage_of_the_paper_begins_with_the_weights_that_are_named(tmp_path: Path) -> None:
    """Without their attention; the later stages take all, and the one from scratch takes nothing."""
    # Any model: whether it fits is asked before anything is run.
    save_model(LINA(LinaConfig(dim=8, num_heads=2, condition_depth=1, depth=2, flow_depth=1)), tmp_path / "studies")
    named = f"study.axes.way.start.source=[{tmp_path / 'studies'},null,null,null,null,null]"
    plan, _, _ = composed("study=staged", "scale=paper", named)
    first = way(plan, "small").config.start
    assert (first.source, first.take) == (str(tmp_path / "studies"), "all_but_attention")
    assert first.sha256 is not None
    assert way(plan, "medium, restarted").config.start.take == "all"
    assert way(plan, "medium, restarted").config.start.source is None
    assert not way(plan, "from scratch").config.start.given
    without, _, _ = composed("study=staged", "scale=paper")
    assert not way(without, "small").config.start.given


def test_the_linear_models_take_what_their_ways_say_and_the_teacher_counts() -> None:
    plan, _, _ = composed("study=linearise")
    teacher = way(plan, "softmax")
    assert {a.kind for a in teacher.config.model.decoder_blocks + teacher.config.model.encoder_blocks} == {"softmax"}
    starts = {name: way(plan, name).config.start for name in ("all weights", "all but attention", "distilled")}
    assert {name: start.take for name, start in starts.items()} == {
        "all weights": "all",
        "all but attention": "all_but_attention",
        "distilled": "all",
    }
    assert [start.distills for start in starts.values()] == [False, False, True]
    distilled = way(plan, "distilled")
    assert distilled.teacher == teacher.config.model
    own = flops_per_image(distilled.config.model, teacher.config.model)
    assert own > 1.2 * flops_per_image(distilled.config.model)
    assert total_flops(distilled) == total_flops(teacher) + own * distilled.config.images_seen


def test_a_cell_that_cannot_learn_from_its_source_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"distillation needs a source that sees the same: its latent_size is \[12, 12\]"
    ):
        composed("study=staged", "start.distill_velocity=1")
