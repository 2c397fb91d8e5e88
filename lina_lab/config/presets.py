"""Sizes of the model by name: the paper's three, and a ladder for a CPU. Width grows at a fixed depth."""

from typing import Any

PAPER = {"condition_depth": 16, "depth": 32, "flow_depth": 6}
CPU = {"condition_depth": 1, "depth": 4, "flow_depth": 2, "num_heads": 4}

SIZES: dict[str, dict[str, Any]] = {
    "width768": PAPER | {"dim": 768, "num_heads": 12},
    "width1024": PAPER | {"dim": 1024, "num_heads": 16},
    "width1536": PAPER | {"dim": 1536, "num_heads": 16},
    "cpu16": CPU | {"dim": 16},
    "cpu32": CPU | {"dim": 32},
    "cpu48": CPU | {"dim": 48},
    "cpu64": CPU | {"dim": 64},
    "cpu96": CPU | {"dim": 96},
    "cpu128": CPU | {"dim": 128},
}
"""Name -> fields of `LinaConfig`; on the command line `size=NAME`."""
