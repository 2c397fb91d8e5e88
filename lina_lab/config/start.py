"""Where a trial starts: drawn weights, or those of a model that was trained before."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from lina_lab.config.checks import CHECKS, FROM_LIST, Checked

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True, config=CHECKS)
class StartConfig(Checked):
    """The weights that training starts from; all fields at their defaults: drawn from the seed."""

    source: str | None = None
    """Weights to start from: a cell's folder or one of its checkpoints, a model's folder, weights that the authors
    published, or runs:/ID for a run of this harness in MLflow; null: none, or what study.stages names. Not part of the
    config hash."""
    sha256: str | None = None
    """SHA-256 of the file of these weights, which stands for them in the config hash wherever they lie; null: filled in
    when the study is planned."""
    cell: str | None = None
    """Config hash of the cell of the same study to start from; study.stages fills it in."""
    weights: Literal["ema", "raw"] = "ema"
    """Weights of a checkpoint: the averaged ones or those of the last step."""
    state: Literal["weights", "optimizer", "training"] = "weights"
    """What is taken besides the weights. weights: nothing, training begins at step 0 with a fresh optimizer; optimizer:
    the optimizer's moments of the parameters that are taken; training: everything, so that the trial goes on where the
    source ended, as if it had never ended."""
    take: Literal["all", "all_but_attention", "named"] = "all"
    """Parameters that are taken: all that both models have, all but those of the attentions, or those in `named`."""
    named: Annotated[tuple[str, ...], FROM_LIST] = ()
    """For take=named: patterns of parameter names, as in a shell: decoder.*.mlp.*."""
    gates: Literal["interpolate", "restart", "drop"] = "interpolate"
    """Gates by position. interpolate: taken, and bilinearly on their grid where the resolution changes; restart: from
    1; drop: the model has none, and those of the source are left out."""
    unfit: Literal["refuse", "leave"] = "refuse"
    """Parameters of the source that the model lacks or has in another shape. refuse: the trial is refused and names
    them; leave: they are left out, and those of the model are drawn."""
    distill_z: Weight = 0.0
    """Weight of a term of the training loss: squared distance of z from the source's z, relative to the source's
    variance. The source is frozen and sees the same masks."""
    distill_velocity: Weight = 0.0
    """Weight of a term of the training loss: squared distance of the velocity from the source's."""

    @property
    def given(self) -> bool:
        """Whether training starts from other weights than drawn ones."""
        return self.source is not None or self.cell is not None

    @property
    def distills(self) -> bool:
        """Whether the source is also the teacher."""
        return self.distill_z > 0 or self.distill_velocity > 0

    def _problems(self) -> Iterator[str]:
        if self.source is not None and self.cell is not None:
            yield "source and cell are both given: weights come from one place"
        if self.sha256 is not None and self.source is None:
            yield "sha256 is that of a source: it needs source"
        if not self.given:
            changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            if changed:
                yield f"{changed[0]} needs weights to start from: give start.source, or name a cell in study.stages"
        if (self.take == "named") != bool(self.named):
            yield "take=named and named=[PATTERN,...] go together"
        if self.state == "training":
            partial = (self.take, self.gates, self.unfit) != ("all", "interpolate", "refuse")
            if partial or self.distills or self.weights != "ema":
                yield "state=training takes everything as it is: leave the other fields of start at their defaults"
