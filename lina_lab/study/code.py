"""Whether a worker has the code and packages that a study is trained with."""

from lina_lab.study.store import Store
from lina_lab.util.code_versions import code_versions, differences
from lina_lab.util.errors import RefusedError
from lina_lab.util.signals import defer_signals

VERSIONS = "versions"
"""Optuna's attribute of the study: name -> version, see `code_versions`."""


def check_code(store: Store, *, other_code: bool) -> None:
    """Note the code and packages of a study's first worker, and refuse a worker that has others.

    Args:
        store: the study. One that an earlier version began has no note; this worker's is the first.
        other_code: go on with this worker's code and packages, which later workers must have too.

    Raises:
        RefusedError: what differs.
    """
    mine = code_versions()
    with store.setup(), defer_signals():
        known = store.study.user_attrs.get(VERSIONS)
        if known == mine:
            return
        if known is not None and not other_code:
            raise RefusedError(
                f"the study {store.plan.study.name} is trained with other code or packages: "
                f"{differences(known, mine)}; use those, or go on with these for all cells that are left "
                "(other_code=true), or give the study another name (study.name=...)"
            )
        store.study.set_user_attr(VERSIONS, mine)
