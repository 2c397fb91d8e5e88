"""Versions of a study: one configuration each."""

from lina_lab.study.store import Store
from lina_lab.study.workspace import Workspace
from lina_lab.util.errors import ChangedError


def newest_version(workspace: Workspace, corrects: bool = False) -> Store:
    """The store under the study's name, or under the first of NAME-v2, NAME-v3, ... that has its configuration.

    Args:
        workspace: the study under its first name.
        corrects: see `Store`.

    Raises:
        StudyError: the storage cannot be opened.
    """
    name, number = workspace.plan.study.name, 1
    while True:
        try:
            return Store(workspace, corrects=corrects)
        except ChangedError:
            number += 1
            workspace = workspace.named(f"{name}-v{number}")
