"""Whether images show what their captions ask for, by GenEval's rules (Ghosh et al. 2023)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lina_lab.data.pixels import Pixels
from lina_lab.data.scenes import RELATIONS, Metadata, holds
from lina_lab.evaluation.prompts.detect import Patch, detect

MAX_CLUTTER = 0.15
"""Share of the image that may be colored and no shape: two or three spoilt shapes are allowed, noise is not."""


@dataclass(frozen=True)
class Verdict:
    """Whether an image shows what its caption asks for."""

    name: str
    """The image's."""
    metadata: Metadata
    """What the caption asks for."""
    correct: bool
    reason: str
    """What is wrong with the image; empty where it is correct."""


def judge(pixels: Pixels, metadata: Metadata) -> tuple[bool, str]:
    """Whether an image is correct, and what is wrong with it if not.

    As in GenEval, the required objects must be there in their number, color and position; for the task counting, not
    one more. An image that is mostly something else is wrong, whatever shapes one could find in its noise.

    Raises:
        ValueError: the metadata names a position that there is not.
    """
    seen = detect(pixels)
    if seen.clutter > MAX_CLUTTER:
        return False, f"{seen.clutter:.0%} of the picture is coloured and no shape"
    groups: list[list[Patch]] = []
    for entry in metadata["include"]:
        shape, count, color = entry["class"], entry["count"], entry.get("color")
        alike = [patch for patch in seen.patches if patch.shape == shape]
        group = [patch for patch in alike if color in (None, patch.color)]
        if len(group) < count:
            others = ", ".join(sorted(patch.color for patch in alike))
            return False, f"{len(group)} of {count} {f'{color} ' if color else ''}{shape}" + (
                f"; it is {others}" if color and alike else ""
            )
        if metadata["tag"] == "counting" and len(group) > count:
            return False, f"{len(group)} {shape}s in place of {count}"
        if "position" in entry:
            relation, other = entry["position"]
            if relation not in RELATIONS:
                raise ValueError(f"position {relation!r} is none of {', '.join(RELATIONS)}")
            if not any(holds(relation, (a.column, a.row), (b.column, b.row)) for a in group for b in groups[other]):
                return False, f"no {shape} {relation} a {metadata['include'][other]['class']}"
        groups.append(group)
    return True, ""


def judge_all(images: Iterable[Pixels], prompts: Sequence[Metadata], names: Sequence[str]) -> list[Verdict]:
    """A verdict for each image, uint8 [H, W, 3].

    Args:
        images: as many as there are prompts.
        prompts: what each image must show.
        names: the images'.
    """
    judged = zip(images, prompts, names, strict=True)
    return [Verdict(name, metadata, *judge(pixels, metadata)) for pixels, metadata, name in judged]


def mean_over_tasks(verdicts: Sequence[Verdict]) -> float:
    """GenEval's score: the unweighted mean over tasks of the share of correct images."""
    by_task: dict[str, list[bool]] = {}
    for verdict in verdicts:
        by_task.setdefault(verdict.metadata["tag"], []).append(verdict.correct)
    return float(np.mean([np.mean(correct) for correct in by_task.values()]))
