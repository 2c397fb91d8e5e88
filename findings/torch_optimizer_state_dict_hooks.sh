#!/usr/bin/env bash
# Reading an optimizer's state runs its step hooks (torch 2.14.1, torch.distributed.checkpoint.state_dict).
#
# Expected: get_optimizer_state_dict reads. A hook of `register_step_post_hook`, a common place to keep an exponential
# moving average of the weights, runs when the optimizer steps in training, and at no other time.
# Seen: on an optimizer that has not stepped yet, get_optimizer_state_dict and set_optimizer_state_dict make its state
# by a step with a learning rate of 0. The weights stay, and the hook runs: the average counts one update before
# training has begun, and the optimizer's own step counter one step.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy
cd "$folder"
cat > check.py <<'PYTHON'
import copy

import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def fresh():
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
    return model, optimizer, average


model, optimizer, average = fresh()
weights = copy.deepcopy(model.state_dict())
state = get_optimizer_state_dict(model, optimizer)
steps = int(state["state"]["weight"]["step"])
print(f"torch {torch.__version__}: after reading, updates of the average {int(average.n_averaged)}, steps {steps}")
assert int(average.n_averaged) == 1, "reading runs no hook now"
assert steps == 1, "reading counts no step now"
assert all(torch.equal(before, now) for before, now in zip(weights.values(), model.state_dict().values(), strict=True))

model, optimizer, average = fresh()
set_optimizer_state_dict(model, optimizer, state)
print(f"after loading into a fresh optimizer, updates of the average {int(average.n_averaged)}")
assert int(average.n_averaged) == 1, "loading runs no hook now"
PYTHON
venv/bin/python check.py
