"""A trial says what each validation has measured, and ends where it is given up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lina_lab.config import TrialConfig
from lina_lab.records.files import PRUNE_FILE
from lina_lab.records.result import Progress
from lina_lab.training.callbacks.progress import ProgressMeter
from lina_lab.training.trial import run_trial

Tiny = Callable[..., TrialConfig]
LONG: dict[str, Any] = {"trainer": {"max_images": 128}}


def test_each_validation_is_reported_when_it_has_ended(tiny: Tiny, tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = run_trial(tiny(), tmp_path, report=seen.append)
    assert [(each.images, each.validated_images) for each in seen] == [
        (16, None),
        (32, None),
        (32, 32),
        (48, 32),
        (64, 32),
        (64, 64),
    ]
    last = seen[-1].validation
    assert last is not None
    assert {name: last[name] for name in ("val/loss_raw", "val/loss_ema")} == {
        name: result.metrics[name] for name in ("val/loss_raw", "val/loss_ema")
    }
    assert Progress.from_dict(vars(seen[-1])) == seen[-1]


def test_what_is_measured_more_rarely_is_reported_only_where_it_is_new(tiny: Tiny) -> None:
    meter = ProgressMeter(tiny(), None, lambda: 0.0)  # type: ignore[arg-type]
    first = meter.validated(32, {"val/loss_ema": 0.5, "eval/fid_pixels": 3.0}).validation
    assert first == {"val/loss_ema": 0.5, "eval/fid_pixels": 3.0}
    assert meter.validated(64, {"val/loss_ema": 0.5, "eval/fid_pixels": 3.0}).validation == {"val/loss_ema": 0.5}
    assert meter.validated(96, {"val/loss_ema": 0.4, "eval/fid_pixels": 2.0}).validation == {
        "val/loss_ema": 0.4,
        "eval/fid_pixels": 2.0,
    }


def test_a_trial_that_is_given_up_at_a_validation_ends_after_the_next_step(tiny: Tiny, tmp_path: Path) -> None:
    def report(progress: Progress) -> None:
        if progress.validated_images == 32:
            (tmp_path / PRUNE_FILE).touch()

    given_up = run_trial(tiny(**LONG), tmp_path, report=report)
    assert (given_up.status, given_up.steps, given_up.images_seen) == ("pruned", 3, 48)
    # A process that was killed before this was recorded comes to the same end from its checkpoint.
    again = run_trial(tiny(**LONG), tmp_path)
    assert (again.status, again.steps, again.resumed_at) == ("pruned", 3, 2)
    assert again.metrics == given_up.metrics


@pytest.mark.parametrize("listens", [True, False])
def test_reports_change_no_number(tiny: Tiny, tmp_path: Path, listens: bool) -> None:
    for name in ("quiet", "loud"):
        (tmp_path / name).mkdir()
    quiet = run_trial(tiny(), tmp_path / "quiet")
    loud = run_trial(tiny(), tmp_path / "loud", report=(lambda progress: None) if listens else None)
    assert quiet.metrics == loud.metrics


def test_a_cancelled_trial_is_not_pruned(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / PRUNE_FILE).touch()
    (tmp_path / "cancel").touch()
    assert run_trial(tiny(), tmp_path).status == "cancelled"
