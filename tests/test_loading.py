"""Imports without collection leave the collector as they found it."""

import gc
from contextlib import suppress

import pytest

from lina_lab.loading import uncollected


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_put_off_and_then_as_before(enabled: bool) -> None:
    were = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with uncollected():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with suppress(ImportError), uncollected():
            raise ImportError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if were else gc.disable)()
