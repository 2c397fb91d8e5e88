"""Points of metrics for an MLflow run: sent in batches, or kept in a file until the store takes them.

Imports no torch, and MLflow only to send.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from lina_lab.records.curve import Point, lines_of, points_of, read_curve
from lina_lab.records.files import UNSENT_FILE
from lina_lab.util.files import write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_BATCH = 1000
"""MLflow takes at most 1,000 metrics a request."""


def send(client: "MlflowClient", run_id: str, points: list[Point], last: dict[str, int]) -> None:
    """Send to a run the points that it does not have yet, and remove from `points` what it has.

    Args:
        client: of the store.
        run_id: the run.
        points: removed as they are sent, so that what an error leaves can be sent again.
        last: metric -> the last step that the run had of it before; the store is asked for those that are missing here.
    """
    from mlflow.entities import Metric

    for name in {name for name, *_ in points} - last.keys():
        last[name] = max((point.step for point in client.get_metric_history(run_id, name)), default=-1)
    points[:] = [point for point in points if point[2] > last[point[0]]]
    while points:
        metrics = [Metric(name, value, now, step) for name, value, step, now in points[:MAX_BATCH]]
        client.log_batch(run_id, metrics=metrics)
        del points[:MAX_BATCH]


def write_unsent(folder: Path, points: list[Point]) -> None:
    """Keep points that the store did not take, in the trial's folder."""
    write_atomically(folder / UNSENT_FILE, lines_of(points))


def deliver_unsent(client: "MlflowClient", run_id: str, folder: Path) -> None:
    """Send the points that `write_unsent` kept, and remove their file.

    Raises:
        MlflowException: the store does not take them; the file stays.
        ValueError: the file is damaged, and the folder holds no curve that has its points.
    """
    path = folder / UNSENT_FILE
    if not path.exists():
        return
    try:
        points = points_of(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        curve = read_curve(folder)
        if curve is None:
            raise ValueError(
                f"{path} is damaged ({error}): remove it, and the curve lacks what it held, or "
                "remove the cell's folder to train it again"
            ) from error
        points = curve
    send(client, run_id, points, {})
    path.unlink()
