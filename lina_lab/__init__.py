"""A harness for ablation and scaling studies of LINA, a linear-attention image generator."""

import os

# MLflow looks at these when it is first imported; without them it sends usage data, and draws a bar for each file.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# An MLflow server that does not answer is asked again by those who know what may wait, not for minutes by the client.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
