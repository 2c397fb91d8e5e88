#!/usr/bin/env bash
# Names of Optuna's objectives and the table of its trials (optuna 5.0.0, pandas 2.3.3).
#
# Expected: `Study.set_metric_names` gives names to objectives for pages and plots. The table of trials keeps its columns,
# and `trials_dataframe(attrs=("value",))`, which asks for `value` by name, has a column `value`.
# Seen: from then on the column is `value_` and the name, also where `value` was asked for. A script that reads
# `table["value"]`, or sorts by it, ends with a KeyError once somebody else has named the objective of a shared study.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optuna==5.0.0 pandas==2.3.3
cd "$folder"
cat > check.py <<'PYTHON'
import warnings

import optuna

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study()
study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)


def columns(**options):
    return [name for name in study.trials_dataframe(**options) if name.startswith("value")]


before = columns(), columns(attrs=("number", "value"))
study.set_metric_names(["loss"])
after = columns(), columns(attrs=("number", "value"))
print(f"optuna {optuna.__version__}: without names {before}, with a name {after}")
assert before == (["value"], ["value"])
assert after == (["value_loss"], ["value_loss"]), "a name leaves the column as it is now"
PYTHON
venv/bin/python check.py
