"""PostgreSQL as the queue."""

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from tests.system.conftest import make_place

pytestmark = pytest.mark.system
PORT = 54331


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a database server of its own. It does not run as root."""
    folder = Path(tmp_path_factory.mktemp("postgres"))
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    data = folder / "data"
    for parent in (folder, *folder.parents):
        parent.chmod(parent.stat().st_mode | 0o055)
        if parent.parent == Path("/tmp"):
            break
    shutil.chown(folder, "postgres")
    user = ["runuser", "-u", "postgres", "--"]
    subprocess.run([*user, programs / "initdb", "-D", data, "-A", "trust"], check=True, capture_output=True, cwd="/")
    options = f"-p {PORT} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    control = [*user, programs / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], check=True, capture_output=True, cwd="/")
    address = ["-h", "127.0.0.1", "-p", str(PORT)]
    subprocess.run([*user, programs / "createdb", *address, "optuna"], check=True, capture_output=True, cwd="/")
    yield f"postgresql+psycopg://postgres@127.0.0.1:{PORT}/optuna"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")


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
    assert (code, err, out) == (0, "", "tiny: 4 done\n")
