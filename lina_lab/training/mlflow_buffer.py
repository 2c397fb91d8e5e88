"""Points of metrics for an MLflow run: sent in batches, or kept in a file until the store takes them.

Imports no torch, and MLflow only to send.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lina_lab.records.files import UNSENT_FILE
from lina_lab.util.files import write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_BATCH = 1000
"""MLflow takes at most 1,000 metrics a request."""
Point = tuple[str, float, int, int]
"""Name, value, step, milliseconds since 1970."""


def send(client: "MlflowClient", run_id: str, points: Iterable[Point]) -> None:
    """Log points to a run, at most MAX_BATCH."""
    from mlflow.entities import Metric

    client.log_batch(run_id, metrics=[Metric(name, value, now, step) for name, value, step, now in points])


def last_steps(
    client: "MlflowClient", run_id: str, points: Iterable[Point], known: Mapping[str, int]
) -> dict[str, int]:
    """Metric -> the last step that a run has of it, -1 for none; the store is not asked again for what is `known`."""
    names = {name for name, *_ in points} - known.keys()
    histories = {name: client.get_metric_history(run_id, name) for name in names}
    return {**known, **{name: max((point.step for point in found), default=-1) for name, found in histories.items()}}


def newer(points: Iterable[Point], last: Mapping[str, int]) -> list[Point]:
    """The points after the last step of their metric."""
    return [point for point in points if point[2] > last[point[0]]]


def write_unsent(folder: Path, points: list[Point]) -> None:
    """Keep points that the store did not take, in the trial's folder."""
    write_atomically(folder / UNSENT_FILE, "".join(json.dumps(point) + "\n" for point in points))


def deliver_unsent(client: "MlflowClient", run_id: str, folder: Path) -> None:
    """Send the points that `write_unsent` kept, and remove their file.

    Raises:
        MlflowException: the store does not take them; the file stays.
    """
    path = folder / UNSENT_FILE
    if not path.exists():
        return
    points: list[Point] = [tuple(json.loads(line)) for line in path.read_text().splitlines()]
    points = newer(points, last_steps(client, run_id, points, {}))
    for start in range(0, len(points), MAX_BATCH):
        send(client, run_id, points[start : start + MAX_BATCH])
    path.unlink()
