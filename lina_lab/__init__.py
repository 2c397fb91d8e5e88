"""A harness for ablation and scaling studies of LINA, a linear-attention image generator."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lina_lab.config import AttentionConfig, LinaConfig
    from lina_lab.evaluation.weights import load
    from lina_lab.model import LINA

__all__ = ["LINA", "AttentionConfig", "LinaConfig", "load"]
MODULES = {
    "LINA": "lina_lab.model",
    "AttentionConfig": "lina_lab.config",
    "LinaConfig": "lina_lab.config",
    "load": "lina_lab.evaluation.weights",
}
"""Public name -> where it is defined; imported when it is first used, so that commands start fast."""

# MLflow looks at these when it is first imported; without them it sends usage data, and draws a bar for each file.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# An MLflow server that does not answer is asked again by those who know what may wait, not for minutes by the client.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(MODULES[name]), name)
