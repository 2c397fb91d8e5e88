"""Where a run says it is from."""

import git
import pytest
from mlflow.utils import mlflow_tags

from lina_lab.study.origin import source_tags


def test_a_checkout_says_its_commit() -> None:
    assert len(source_tags()[mlflow_tags.MLFLOW_GIT_COMMIT]) == 40


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ValueError("dubious"), git.GitCommandError("x")])
def test_a_checkout_of_another_user_says_none(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """git refuses it, and GitPython raises what it meets first."""

    def refuse(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("git.Repo.is_dirty", refuse)
    tags = source_tags()
    assert tags[mlflow_tags.MLFLOW_SOURCE_NAME] == "lina_lab.run"
    assert {mlflow_tags.MLFLOW_GIT_COMMIT, mlflow_tags.MLFLOW_GIT_DIRTY} & tags.keys() == set()
