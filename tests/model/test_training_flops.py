"""FLOPs of a training, of its teacher, and of all that it started from."""

from collections.abc import Callable
from dataclasses import replace

from lina_lab.config import AttentionConfig, StartConfig, TrialConfig
from lina_lab.model import count
from lina_lab.study.cost import memory_bytes, parameters

Tiny = Callable[..., TrialConfig]
SOFTMAX = AttentionConfig(kind="softmax", conv="none", gate="none")


def started(trial: TrialConfig, cell: str, **start: object) -> TrialConfig:
    return replace(trial, start=replace(StartConfig(cell=cell), **start))  # type: ignore[arg-type]


def with_images(trial: TrialConfig, images: int) -> TrialConfig:
    return replace(trial, trainer=replace(trial.trainer, max_images=images))


def test_a_trial_from_drawn_weights_costs_its_images(tiny: Tiny) -> None:
    trial = tiny()
    image = count.FLOPS_PER_MULTIPLY_ADD * count.training_operations(trial.model).total
    assert count.training_flops(trial) == 64 * image
    assert count.flops_with_sources(trial, {}) == 64 * image


def test_the_teacher_s_forward_pass_is_counted(tiny: Tiny) -> None:
    """That of a loss, with the noise samples of the student; its attention may be another one."""
    student = tiny(model={"noise_samples_per_token": 3}).model
    teacher = replace(student, attention=SOFTMAX, noise_samples_per_token=1, depth=4)
    forward = count.loss_operations(replace(teacher, noise_samples_per_token=3)).total
    extra = count.flops_per_image(student, teacher) - count.flops_per_image(student)
    assert extra == count.FLOPS_PER_MULTIPLY_ADD * forward


def test_a_distilled_trial_costs_more_by_its_teacher(tiny: Tiny) -> None:
    source = tiny(model={"attention": {"kind": "softmax", "conv": "none", "gate": "none"}})
    plain, distilled = started(tiny(), "a"), started(tiny(), "a", distill_z=1.0)
    assert count.training_flops(plain, source) == count.training_flops(tiny())
    assert count.training_flops(distilled, source) == 64 * count.flops_per_image(distilled.model, source.model)
    # Where the source is not known: a teacher like the student.
    assert count.training_flops(distilled) == 64 * count.flops_per_image(distilled.model, distilled.model)
    assert memory_bytes(distilled) - memory_bytes(plain) == 4 * parameters(plain.model)


def test_all_that_a_trial_started_from_is_counted_once(tiny: Tiny) -> None:
    first = tiny(model={"depth": 4})
    second = started(with_images(tiny(), 128), "first")
    third = started(with_images(tiny(), 32), "second", distill_velocity=1.0)
    trials = {"first": first, "second": second, "third": third, "other": tiny()}
    small, image = count.flops_per_image(first.model), count.flops_per_image(third.model)
    taught = count.flops_per_image(third.model, second.model)
    assert count.flops_with_sources(third, trials) == 64 * small + 128 * image + 32 * taught


def test_a_trial_that_goes_on_costs_what_it_adds(tiny: Tiny) -> None:
    """A chain of budgets of one training: in all, it costs what the longest costs from the start."""
    short, longer = tiny(), started(with_images(tiny(), 160), "short", state="training")
    image = count.flops_per_image(short.model)
    assert count.training_flops(longer, short) == 96 * image
    assert count.flops_with_sources(longer, {"short": short}) == 160 * image


def test_the_cost_of_a_source_elsewhere_is_not_known(tiny: Tiny) -> None:
    assert count.flops_with_sources(started(tiny(), "gone"), {}) is None
    elsewhere = replace(tiny(), start=StartConfig(source="runs/other/cell"))
    assert count.flops_with_sources(started(tiny(), "a"), {"a": elsewhere}) is None
