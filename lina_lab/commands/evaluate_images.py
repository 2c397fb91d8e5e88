"""The work of `lina evaluate`, see `commands.evaluate`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lina_lab.commands.evaluate import EvaluateConfig
from lina_lab.data.shards.listing import LeftOut
from lina_lab.evaluation.features import FEATURES, Features, extract
from lina_lab.evaluation.images import ImageSet, has_images, open_images, read_statistics
from lina_lab.evaluation.moments import moments_of
from lina_lab.evaluation.quality import Reference, check_counts, quality, rules
from lina_lab.evaluation.sampling import RECIPE_FILE
from lina_lab.records.runstore import EVALUATION, quiet_logs
from lina_lab.util.compat.mlflow import ARTIFACTS, relocate_artifacts
from lina_lab.util.files import read_json, sha256, write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_FILE = "metrics.json"


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """The metrics, and the whole recipe that led to them.

    Raises:
        ValueError: samples or reference cannot be read or compared; the message says which.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    samples, against = Path(config.samples), Path(config.reference)
    stored, images = read_statistics(against), has_images(against)
    if config.features == "pixels" and not images:
        raise ValueError(f"{against} holds statistics of Inception's features: features=pixels needs images")
    left_out = {path: LeftOut() for path in (samples, against)}
    ours, theirs = open_images(samples, left_out[samples]), open_images(against, left_out[against]) if images else None
    check_counts(ours.count, None if theirs is None else theirs.count)
    differing = _sizes_differ(ours, theirs)
    if differing and config.features == "pixels":
        raise ValueError(f"features=pixels compares images of one size: {differing}")
    extractor = FEATURES[config.features](config.inception, device)
    generated = extract(ours.batches(config.batch_size), extractor)
    seen = None if theirs is None else extract(theirs.batches(config.batch_size), extractor)
    found = quality(generated, _reference(config, stored, seen))
    suffix = "" if config.features == "inception" else f"_by_{config.features}"
    recipe = (samples if samples.is_dir() else samples.parent) / RECIPE_FILE
    return {
        "metrics": {f"{name}{suffix}": value for name, value in found.items()},
        "rules": rules(found),
        "features": config.features,
        "sizes_differ": differing,
        "samples": {"path": str(samples), "sha256": _digest(samples), "left_out": left_out[samples].counts},
        "reference": {
            "path": str(against),
            "sha256": _digest(against),
            "statistics": stored is not None,
            "left_out": left_out[against].counts,
        },
        "sampler": read_json(recipe) if recipe.exists() else None,
        "torch": torch.__version__,
    }


def _sizes_differ(samples: ImageSet, reference: ImageSet | None) -> str | None:
    """The two sizes as the part of a sentence; None: they are equal, or the reference's is not known."""
    if reference is None or reference.size == samples.size:
        return None
    return f"{samples.path} has {samples.shown_size} and {reference.path} has {reference.shown_size}"


def _reference(config: EvaluateConfig, stored: Any, seen: Features | None) -> Reference:
    """Stored statistics where there are some: the published convention; images for what needs them."""
    if stored is not None and config.features == "inception":
        return Reference(pool=stored.pool, spatial=stored.spatial, images=None if seen is None else seen.pool)
    assert seen is not None
    spatial = None if seen.spatial is None else moments_of(seen.spatial).gaussian
    return Reference(pool=moments_of(seen.pool).gaussian, spatial=spatial, images=seen.pool)


def _digest(path: Path) -> str | None:
    return sha256(path) if path.is_file() else None


def open_run(run: str, tracking_uri: str | None) -> "MlflowClient":
    """A client of the store that has a run to log to.

    Raises:
        ValueError: there is no such store, no such run, or the run was deleted.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    quiet_logs()
    database = Path((tracking_uri or "").removeprefix("sqlite:///"))
    if (tracking_uri or "").startswith("sqlite:///") and not database.is_file():
        # MLflow would make one.
        raise ValueError(f"tracking_uri={tracking_uri}: there is no such file")
    if (database.parent / ARTIFACTS).is_dir() and database.is_file():
        relocate_artifacts(database)
    try:
        client = MlflowClient(tracking_uri)
        stage = client.get_run(run).info.lifecycle_stage
    except MlflowException as error:
        raise ValueError(f"run={run}: {error}") from error
    if stage != "active":
        raise ValueError(f"run={run}: this run was deleted")
    return client


def log_to_mlflow(client: "MlflowClient", run: str, result: dict[str, Any]) -> None:
    """Metrics as `eval/...`, and the recipe as an artifact.

    Raises:
        ValueError: MLflow does not take them.
    """
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    now = int(time.time() * 1000)
    metrics = [Metric(f"{EVALUATION}{name}", value, now, 0) for name, value in result["metrics"].items()]
    try:
        client.log_batch(run, metrics)
        client.log_dict(run, result, METRICS_FILE)
    except MlflowException as error:
        raise ValueError(f"run={run}: {error}") from error


def run(config: EvaluateConfig) -> int:
    """Evaluate; write, log and print the metrics; returns 0.

    Raises:
        ValueError: the metrics cannot be computed, written or logged; it is found out first what the last two need.
    """
    samples = Path(config.samples)
    out = Path(config.out) if config.out else (samples if samples.is_dir() else samples.parent) / METRICS_FILE
    if config.out and (out.is_dir() or not out.parent.is_dir()):
        raise ValueError(f"out={out} is {'a folder' if out.is_dir() else 'in a folder that is not there'}: give a file")
    client = None if config.run is None else open_run(config.run, config.tracking_uri)
    result = evaluate(config)
    write_atomically(out, json.dumps(result, indent=1) + "\n")
    if config.run is not None and client is not None:
        log_to_mlflow(client, config.run, result)
    for name, value in result["metrics"].items():
        print(f"{name:30} {value:.5g}")
    for name, rule in result["rules"].items():
        print(f"{name}: {rule}")
    if result["sizes_differ"]:
        print(f"{result['sizes_differ']}: the resizing is a part of what the metrics measure")
    for part in ("samples", "reference"):
        if counts := result[part]["left_out"]:
            print(f"{result[part]['path']}: left out: {', '.join(f'{n:,} {kind}' for kind, n in counts.items())}")
    print(out)
    return 0
