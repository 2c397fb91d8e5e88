"""MLflow 3.17: views of an experiment's page.

Public: the UI's own "Share" button. Missing: to choose the columns of a page in code.
"""

import json
from collections.abc import Sequence


def shared_view(
    name: str, columns: Sequence[tuple[str, str]], order: tuple[str, str], wanted: str, *, ascending: bool
) -> tuple[str, str]:
    """A tag of an experiment that holds a view of its runs, as the UI's "Share" makes one (`mlflow.sharedViewState.`).

    Args:
        name: the view's, see `shared_view_address`.
        columns: kind (`params`, `metrics`) and name of each column.
        order: kind and name of the column that runs are sorted by.
        wanted: a filter in MLflow's language.
        ascending: whether the smallest value comes first.
    """
    state = {
        "searchFilter": wanted,
        "orderByKey": f"{order[0]}.`{order[1]}`",
        "orderByAsc": ascending,
        "selectedColumns": [f"{kind}.`{column}`" for kind, column in columns],
    }
    return f"mlflow.sharedViewState.{name}", json.dumps(state)


def shared_view_address(experiment: str, name: str) -> str:
    """The address of a view of an experiment's runs, below that of the UI."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={name}&workflowType=machine_learning"
