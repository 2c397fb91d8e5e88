#!/usr/bin/env bash
# Optuna's WilcoxonPruner with few repetitions, such as a few seeds (optuna 5.0.0, scipy 1.17.1).
#
# Expected: `n_startup_steps=2`, the default, is the number of reported values up to which nothing is pruned, so a trial
# that is ten thousand times worse than the best one is pruned from the third value on.
# Seen: with the default p_threshold=0.1 it cannot be pruned before the fourth value, whatever the values are: the
# smallest p-value of the signed-rank test of n pairs is 2^-n, which is 1/8 for three and 1/16 for four. So racing over
# three seeds, a usual number, never saves a run, and nothing says so.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0 scipy==1.17.1
cd "$folder"
cat > check.py <<'PYTHON'
import warnings

import optuna

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
SEEDS = 6


def pruned(**options):
    """For each number of reported values, whether a hopeless trial is pruned."""
    study = optuna.create_study(pruner=optuna.pruners.WilcoxonPruner(**options))
    best = study.ask()
    for seed in range(SEEDS):
        best.report(0.1 + 0.001 * seed, seed)
    study.tell(best, 0.1)
    hopeless, found = study.ask(), []
    for seed in range(SEEDS):
        hopeless.report(1000.0 + seed, seed)
        found.append(hopeless.should_prune())
    return found


default, eager, lenient = pruned(), pruned(n_startup_steps=0), pruned(p_threshold=0.2)
print(f"optuna {optuna.__version__}, values reported so far: {list(range(1, SEEDS + 1))}")
print(f"default: {default}\nn_startup_steps=0: {eager}\np_threshold=0.2: {lenient}")
assert default == eager == [False] * 3 + [True] * 3, "a hopeless trial is pruned at another value now"
assert lenient == [False] * 2 + [True] * 4
PYTHON
venv/bin/python check.py
