"""PostgreSQL as the queue."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from tests.system.conftest import make_place
from tests.system.servers import database

pytestmark = pytest.mark.system
PORT = 54331


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with database(tmp_path_factory.mktemp("postgres"), PORT) as url:
        yield url


def test_workers_share_a_study_on_postgresql(tmp_path: Path, postgres: str) -> None:
    short = {"trainer": {"max_images": 160, "val_every_images": 80}}
    place = make_place(tmp_path, **short)
    code, out, err = place.study(f"paths.storage={postgres}", "workers=2")
    assert (code, err) == (0, ""), out
    assert "tiny: 4 done" in out
    storage = optuna.storages.RDBStorage(postgres)
    study = optuna.load_study(study_name="tiny", storage=storage)
    assert Counter(trial.user_attrs["cell"] for trial in study.get_trials()) == Counter(
        run.data.tags["lina.cell"] for run in place.attempts()
    )
    assert {trial.state for trial in study.get_trials()} == {optuna.trial.TrialState.COMPLETE}
    storage.engine.dispose()
    assert not (tmp_path / "runs/optuna.db").exists()
    code, out, err = place.study(f"paths.storage={postgres}", "action=status")
    assert (code, err, out.splitlines()[0]) == (0, "", "tiny: 4 done")
