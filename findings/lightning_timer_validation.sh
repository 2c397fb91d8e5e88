#!/usr/bin/env bash
# Lightning's Timer callback and validation (lightning 2.6.6, torch 2.14.1).
#
# Expected: after three validations of 0.2 s each, time_elapsed("validate") is about 0.6 s, and a checkpoint that holds
# the number gives it back when training resumes, as it gives back the training time.
# Seen: it is the time of the last validation alone, 0.2 s. Its state in the checkpoint has the field `validate`, and
# loading ignores it: after resuming, time_elapsed("validate") is 0. time_elapsed("train") does contain all validations,
# so training time without validation cannot be had from the callback.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 lightning==2.6.6
cd "$folder"
cat > check.py <<'PYTHON'
import logging
import time
import warnings

warnings.filterwarnings("ignore")
import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.demos.boring_classes import BoringModel

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
PAUSE, BATCHES, EPOCHS = 0.05, 4, 3


class Slow(BoringModel):
    def validation_step(self, batch, batch_idx):
        time.sleep(PAUSE)
        return super().validation_step(batch, batch_idx)


def fit(ckpt_path=None):
    timer = Timer()
    trainer = L.Trainer(
        max_epochs=EPOCHS, limit_train_batches=2, limit_val_batches=BATCHES, num_sanity_val_steps=0, callbacks=[timer],
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Slow(), ckpt_path=ckpt_path, weights_only=False if ckpt_path else None)
    return timer, trainer


timer, trainer = fit()
one, spent = PAUSE * BATCHES, EPOCHS * PAUSE * BATCHES
validate, train = timer.time_elapsed("validate"), timer.time_elapsed("train")
trainer.save_checkpoint("a.ckpt")
saved = torch.load("a.ckpt", weights_only=False)["callbacks"]["Timer"]["time_elapsed"]
resumed, _ = fit("a.ckpt")
print(f"lightning {L.__version__}: spent validating {spent:.1f} s; validate {validate:.2f} s, train {train:.2f} s")
print(f"in the checkpoint: validate {saved['validate']:.2f} s; resumed: {resumed.time_elapsed('validate'):.2f} s")
assert one <= validate < spent / 2, "the validations are added up now"
assert train > spent, "training time no longer contains validation"
assert saved["validate"] > 0 and resumed.time_elapsed("validate") == 0, "validation time is restored now"
assert resumed.time_elapsed("train") >= train, "training time is restored, as before"
PYTHON
venv/bin/python check.py 2>/dev/null
