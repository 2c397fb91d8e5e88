"""Averaged weights of any length, rebuilt from snapshots of averages by a power function.

A snapshot is a safetensors file with the averages of each profile, whole and in float32: `WIDTH/PARAMETER`. The
checkpoints of the trial hold the list of its snapshots with their hashes, and the averages at their own step.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lina_lab.model.saved import Saved
from lina_lab.records.files import EMA
from lina_lab.util.files import atomic, sha256
from lina_lab.util.power_ema import Profile, combine, refusal

AVERAGES = "EmaProfiles"
"""Name of the state of the averages in checkpoints."""

Weights = Mapping[str, Tensor]
"""Name of a parameter of `LINA` -> its value."""


@dataclass(frozen=True)
class Snapshot:
    """The averages after a step, in a file."""

    step: int
    sha256: str

    def file(self, folder: Path) -> Path:
        """Its file in a cell's folder."""
        return folder / EMA / f"step-{self.step:08d}.safetensors"


def write_snapshot(folder: Path, step: int, averages: Mapping[float, Weights]) -> Snapshot:
    """Write the averages after a step; the file is there whole or not at all.

    Args:
        folder: the cell's.
        step: optimizer steps taken.
        averages: relative width -> the average.

    Raises:
        OSError: the file cannot be written.
    """
    path = Snapshot(step, "").file(folder)
    path.parent.mkdir(exist_ok=True)
    named = {f"{width}/{name}": value for width, weights in averages.items() for name, value in weights.items()}
    with atomic(path) as draft:
        save_file({name: value.float().cpu().contiguous() for name, value in named.items()}, draft)
        # safetensors writes for the owner alone; a snapshot is for whoever may read the folder.
        draft.chmod(path.parent.stat().st_mode & 0o666)
        digest = sha256(draft)
    return Snapshot(step, digest)


def damage(folder: Path, snapshots: Sequence[Snapshot]) -> str | None:
    """A sentence on the first snapshot that is missing or damaged; None: all are whole.

    Args:
        folder: the cell's.
        snapshots: those that its checkpoint lists.
    """
    for snapshot in snapshots:
        path = snapshot.file(folder)
        if not path.is_file():
            return f"{path} is missing: averaged weights cannot be rebuilt without this snapshot"
        if sha256(path) != snapshot.sha256:
            return f"{path} is damaged: its contents are not what was written"
    return None


def rebuild(
    folder: Path,
    snapshots: Sequence[Snapshot],
    widths: Sequence[float],
    wanted: Profile,
    current: Mapping[float, Weights] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """The average of a length, one parameter after the other: name, and value in float32 on the CPU.

    Args:
        folder: the cell's.
        snapshots: those up to the step that is asked for; they are whole, see `damage`.
        widths: relative widths of the profiles that they hold.
        wanted: length and step.
        current: the averages at this step, where no snapshot is of it.

    Raises:
        ValueError: the profiles do not allow that length.
    """
    steps = [*(each.step for each in snapshots), *([] if current is None else [wanted.step])]
    known = tuple(Profile(width, step) for step in steps for width in widths)
    if (end := refusal(known, wanted)) is not None:
        raise ValueError(f"ema={wanted.width:g} {end}")
    coefficients = dict(zip(((p.step, p.width) for p in known), combine(known, wanted).coefficients, strict=True))
    with ExitStack() as opened:
        # Mapped into memory: no more than one parameter is read at a time.
        files = [(each.step, opened.enter_context(safe_open(each.file(folder), "pt"))) for each in snapshots]
        prefix = f"{widths[0]}/"
        names = list(current[widths[0]]) if current else [n for n in files[0][1].keys() if n.startswith(prefix)]  # noqa: SIM118
        for name in (each.removeprefix(prefix) for each in names):
            total: Tensor | float = 0.0
            for width in widths:
                for step, file in files:
                    total = total + coefficients[step, width] * file.get_tensor(f"{width}/{name}").double()
                if current is not None:
                    total = total + coefficients[wanted.step, width] * current[width][name].cpu().double()
            assert isinstance(total, Tensor)
            yield name, total.float()


def of_length(saved: Saved, path: Path, length: float) -> Saved:
    """A trial's weights with the average of another length, at the step of its checkpoint.

    Args:
        saved: what was read of the checkpoint.
        path: the checkpoint; the snapshots are in its folder.
        length: relative width.

    Raises:
        ValueError: there is no checkpoint, the trial kept no averages for it, the length is out of reach, or a snapshot
            is not whole.
    """
    if not saved.checkpoint:
        raise ValueError(f"ema={length:g} needs a cell's folder or a checkpoint: {path} holds one kind of weights")
    state = saved.checkpoint["callbacks"].get(AVERAGES)
    if state is None:
        raise ValueError(f"ema={length:g} needs averages that {path} does not hold: train with ema.profiles=[0.05,0.1]")
    step, snapshots = int(saved.checkpoint["global_step"]), [Snapshot(at, digest) for at, digest in state["snapshots"]]
    if (sentence := damage(path.parent, snapshots)) is not None:
        raise ValueError(sentence)
    averages = state["averages"]
    current = None if step in [each.step for each in snapshots] else averages
    rebuilt = dict(rebuild(path.parent, snapshots, list(averages), Profile(length, step), current))
    return replace(saved, weights={**saved.weights, **rebuilt}, which=f"ema {length:g}")
