"""A study whose cells are trained by groups of processes of one machine, and failures of the launcher."""

import json
import signal
from collections import Counter
from pathlib import Path

import psutil
import pytest

from lina_lab.records.runstore import PHASE, STATUS
from tests.conftest import STUDY, TINY
from tests.system.conftest import Place, alive, make_place, wait_for
from tests.system.lab import shell_blocks, typed

pytestmark = pytest.mark.system
Losses = dict[str, list[tuple[int, float]]]
GROUPS = ("launcher=torchrun", "study.resources.devices=2")
ONE_CELL = {
    "study": STUDY | {"axes": {"size": {"model.dim": [16]}}},
    "model": TINY["model"] | {"attention": {"normalization": "subtraction"}},
    "trainer": {"max_images": 2000, "val_every_images": 400},
}

GROWING = {
    "study": STUDY
    | {"axes": {"size": {"model.dim": [8]}}, "tune": {"optimizer.lr": [1e-6, 0.01, 10.0]}, "tuning": {"seeds": [100]}},
    "trainer": {"max_images": 160, "val_every_images": 160},
    "sampling": {"images_per_class": 0},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Losses:
    place = make_place(tmp_path_factory.mktemp("undisturbed"), **ONE_CELL)
    (words,) = typed(shell_blocks("cluster.md")["With two devices"], kv_gate="tiny")
    code, out, err = place.python(*words)
    assert (code, err) == (0, ""), out
    return place.losses()


def ranks_of(place: Place) -> list[psutil.Process]:
    notes = (place.folder / "runs/tiny").glob("*/logs/rank-*.json")
    return [psutil.Process(json.loads(note.read_text())["pid"]) for note in notes]


def images(place: Place) -> int:
    for path in (place.folder / "runs/tiny").glob("*/progress.json"):
        try:
            return int(json.loads(path.read_text())["images"])
        except FileNotFoundError:
            continue
    return 0


def test_no_rank_outlives_the_process_that_leads_and_the_same_command_goes_on(
    tmp_path: Path, undisturbed: Losses
) -> None:
    """It resumes at the last validation."""
    place = make_place(tmp_path, **ONE_CELL)
    process = place.start("-m", "lina_lab.run", "study=tiny", *GROUPS)
    wait_for(lambda: images(place) > 600)
    ranks = ranks_of(place)
    assert len(ranks) == 2
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -9
    wait_for(lambda: not any(alive(rank) for rank in ranks), seconds=10)
    assert int(max((tmp_path / "runs/tiny").glob("*/step-*.ckpt")).stem.removeprefix("step-")) % 25 == 0
    again, out, err = place.study(*GROUPS)
    assert (again, err) == (0, ""), out
    assert [run.data.tags[STATUS] for run in place.attempts()] == ["done"]
    assert place.losses() == undisturbed


def test_groups_tune_and_after_a_sigterm_between_two_rounds_go_on(tmp_path: Path) -> None:
    place = make_place(tmp_path, **GROWING)
    process = place.start("-m", "lina_lab.run", "study=tiny", *GROUPS)
    # The last cell of tuning has ended; the cell that follows is queued, or about to be.
    wait_for(lambda: len(list(tmp_path.glob("runs/tiny/*/result.json"))) == 3, seconds=300)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (143, "error: terminated; the same command resumes\n")
    code, out, err = place.study(*GROUPS)
    assert (code, err) == (0, ""), out
    assert "tiny: 4 done" in out
    assert Counter(run.data.tags[PHASE] for run in place.attempts()) == {"tuning": 3, "comparison": 1}
    assert {run.data.tags[STATUS] for run in place.attempts()} == {"done"}
    assert sorted(state for _, state in place.trials() if state != "interrupted") == ["done"] * 4


def processes_of(place: Place, module: str = "lina_lab.launch") -> list[psutil.Process]:
    """Processes of groups that train cells of the place."""
    listed = [(process, " ".join(process.info["cmdline"] or [])) for process in psutil.process_iter(["cmdline"])]
    return [process for process, line in listed if module in line and f"{place.folder}/" in line]


def test_a_launcher_that_dies_while_its_group_starts_leaves_no_process(tmp_path: Path, undisturbed: Losses) -> None:
    place = make_place(tmp_path, **ONE_CELL)
    process = place.start("-m", "lina_lab.run", "study=tiny", *GROUPS)
    wait_for(lambda: processes_of(place, "lina_lab.launch.agent"))
    process.kill()
    process.communicate()
    wait_for(lambda: not any(alive(each) for each in processes_of(place)), seconds=20)
    code, out, err = place.study(*GROUPS)
    assert (code, err) == (0, ""), out
    assert [run.data.tags[STATUS] for run in place.attempts()] == ["done"]
    assert place.losses() == undisturbed


def test_a_machine_without_a_gpu_says_so(tmp_path: Path) -> None:
    place = make_place(tmp_path, empty=True, **ONE_CELL)
    code, out, err = place.study(*GROUPS, "study.resources.accelerator=gpu")
    assert (code, out) == (2, "")
    assert "study.resources.accelerator=gpu: " in err
    assert err.endswith("has no GPU that this process may use\n")
    assert not (tmp_path / "runs").exists()


def test_what_would_be_launched_is_shown(tmp_path: Path) -> None:
    place = make_place(tmp_path, empty=True, **ONE_CELL)
    code, out, err = place.study(*GROUPS, "action=plan")
    assert (code, err) == (0, "")
    assert "torchrun --nnodes=1 --nproc-per-node=2 --max-restarts=0 -m lina_lab.launch.rank" in out
    code, out, err = place.study("launcher=slurm", "study.resources.nodes=2", "slurm.setup=null", "action=plan")
    assert (code, err) == (0, "")
    assert "#SBATCH --nodes=2" in out
    assert not (tmp_path / "runs").exists()
