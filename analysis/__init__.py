"""What the runs mean. Reads the run store and published data, never a training process."""

import lina_lab  # noqa: F401  (first: it sets what MLflow looks at)
