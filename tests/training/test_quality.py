"""FID during training: measured when it should be, and without influence on training."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from lina_lab.config import StudyConfig, TrialConfig, from_dict, to_dict
from lina_lab.records.runstore import TrackingRun
from lina_lab.study.grid import make_plan
from lina_lab.training.callbacks.fid import METRICS
from lina_lab.training.trial import run_trial
from tests.conftest import STUDY

Tiny = Callable[..., TrialConfig]
METRIC = METRICS["pixels"]
SAMPLING = {"quality_images": 30, "ode_steps": 2, "ar_steps": 4}
LONG = {"max_images": 160, "val_every_images": 48}


def trained(config: TrialConfig, folder: Path) -> tuple[dict[str, float], list[tuple[int, float]]]:
    """Last metrics, and the logged distances over images."""
    folder.mkdir()
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("x")).info.run_id
    result = run_trial(config, folder, tracking=TrackingRun(uri=uri, run_id=run))
    return result.metrics, [(point.step, point.value) for point in client.get_metric_history(run, METRIC)]


def test_it_is_measured_at_the_end_and_at_stated_budgets(tiny: Tiny, tmp_path: Path) -> None:
    metrics, points = trained(tiny(trainer=LONG, sampling=SAMPLING), tmp_path / "end")
    assert [images for images, _ in points] == [160]
    assert metrics[METRIC] == pytest.approx(points[-1][1])
    often = SAMPLING | {"quality_every_images": 90}
    _, several = trained(tiny(trainer=LONG, sampling=often), tmp_path / "often")
    assert [images for images, _ in several] == [96, 160]
    assert several[-1] == points[-1]


def test_training_is_what_it_is_without(tiny: Tiny, tmp_path: Path) -> None:
    with_it, _ = trained(tiny(trainer=LONG, sampling=SAMPLING | {"quality_every_images": 1}), tmp_path / "with")
    without, none = trained(tiny(trainer=LONG, sampling=SAMPLING | {"quality_images": 0}), tmp_path / "without")
    assert none == []
    assert {name: value for name, value in with_it.items() if name != METRIC} == without


def test_a_trained_model_is_nearer_than_a_fresh_one(tiny: Tiny, tmp_path: Path) -> None:
    sampling = SAMPLING | {"quality_images": 100, "quality_every_images": 1, "ode_steps": 8}
    config = tiny(trainer={"max_images": 1600, "val_every_images": 160}, sampling=sampling, optimizer={"lr": 4e-3})
    _, points = trained(config, tmp_path / "trial")
    assert points[-1][1] < 0.8 * points[0][1]


def test_an_objective_that_nothing_measures_is_refused(tiny: Tiny) -> None:
    study = from_dict(StudyConfig, {**STUDY, "name": "x", "objectives": [{"metric": METRIC}]})
    with pytest.raises(ValueError, match=r"sampling\.quality_images=0 does not measure"):
        make_plan(study, to_dict(tiny()))
    with pytest.raises(ValueError, match="one image has no covariance"):
        tiny(sampling={"quality_images": 1})
