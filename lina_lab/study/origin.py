"""What an MLflow run says of where it is from: command, code, packages and data."""

import json
from collections.abc import Mapping
from pathlib import Path

import git
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils import mlflow_tags

from lina_lab.config import TrialConfig
from lina_lab.records import runstore
from lina_lab.util.code_versions import code_versions

BUILT_IN = "built-in"
"""Digest of a data set that lies in no folder."""


def source_tags() -> dict[str, str]:
    """The command, code and packages; in a git checkout also the commit, and whether tracked files differ from it."""
    tags = {mlflow_tags.MLFLOW_SOURCE_NAME: "lina_lab.run", mlflow_tags.MLFLOW_SOURCE_TYPE: "LOCAL"}
    tags[runstore.VERSIONS] = json.dumps(code_versions())
    try:
        repository = git.Repo(Path(__file__), search_parent_directories=True)
        commit, dirty = repository.head.commit.hexsha, repository.is_dirty()
    except (git.GitError, ValueError, OSError):
        # No checkout, or that of another user: git then ends at once, and GitPython 3.2 raises what it meets first, a
        # ValueError or a BrokenPipeError.
        return tags
    return tags | {mlflow_tags.MLFLOW_GIT_COMMIT: commit, mlflow_tags.MLFLOW_GIT_DIRTY: str(dirty).lower()}


def data_of(config: TrialConfig, contents: Mapping[str, str]) -> DatasetInput:
    """The data that a cell is trained on, as MLflow shows it.

    Args:
        config: the cell's.
        contents: see `grid.Begun.contents`: the fingerprint of a folder is the digest.
    """
    path = config.data.path
    known = contents.get("data.path", contents.get(f"data.path={path}"))
    name = config.data.name if path is None else f"{config.data.name} {Path(path).name}"
    kind, source = ("code", {"package": "lina_lab"}) if path is None else ("local", {"uri": path})
    digest = BUILT_IN if path is None else known or "unknown"
    data = Dataset(name=name, digest=digest, source_type=kind, source=json.dumps(source))
    return DatasetInput(data, [InputTag(mlflow_tags.MLFLOW_DATASET_CONTEXT, "training")])
