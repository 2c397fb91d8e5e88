"""Names of metrics for readers."""

from lina_lab.records.runstore import TRAIN_LOSS

NAMES = {
    TRAIN_LOSS: "training loss",
    "val/loss_ema": "validation loss (EMA)",
    "val/loss_raw": "validation loss (raw weights)",
    "eval/fid_pixels": "Fréchet distance of pixels",
    "eval/fid_inception": "FID",
    "eval/captions": "caption accuracy",
}


def metric_name(metric: str) -> str:
    """Return the name of a metric for figures, tables and sentences."""
    return NAMES.get(metric, metric)
