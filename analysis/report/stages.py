"""What a report says of cells that started from the weights of others."""

from lina_lab.config.lineage import lineage_sentences
from lina_lab.records.status import CellStatus

from ..load.lineage import LINEAGE, STATE
from ..load.runs import StudyRuns
from .tables import count

FROM_ZERO = "Images of a cell that starts from the weights of another are counted from the start of its own training."
GOES_ON = "Images of a cell that goes on with another's training (start.state=training) include those of that training."


def budget_sentences(runs: StudyRuns) -> list[str]:
    """Say whether variants took equal FLOPs, with all that their cells started from."""
    if LINEAGE not in runs.cells:
        return []
    found = {key: list(rows) for key, rows in runs.cells.groupby(["size", "variant"], observed=True)[LINEAGE]}
    return lineage_sentences({str(s): {v: found[s, v] for v in runs.variants if (s, v) in found} for s in runs.sizes})


def source_sentences(runs: StudyRuns) -> list[str]:
    """Say which cells were trained for those that start from them alone."""
    if runs.sources.empty:
        return []
    total = count(len(runs.sources), "cell")
    each = ", ".join(f"{number} “{name}”" for name, number in runs.sources["variant"].value_counts(sort=False).items())
    open_ends = int((runs.sources["state"] != CellStatus.DONE).sum())
    missing = f" {open_ends} of them did not end well, or not yet." if open_ends else ""
    return [f"{total} only trained weights for others to start from ({each}), and enter no comparison.{missing}"]


def curve_sentences(runs: StudyRuns) -> list[str]:
    """Say where the curves of cells that started from others begin."""
    states = set(runs.cells[STATE]) if STATE in runs.cells else set()
    return [*([FROM_ZERO] if states & {"weights", "optimizer"} else []), *([GOES_ON] if "training" in states else [])]
