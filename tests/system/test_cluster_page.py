"""docs/cluster.md, followed from top to bottom by two people and a guest, on two machines and a server."""

import json
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lina_lab import run
from tests.conftest import STUDY
from tests.system.cluster import Cluster, cluster
from tests.system.conftest import FILE, wait_for
from tests.system.lab import NUMBER, PEOPLE, Lab, accounts, environment, lab, programs, shell_blocks
from tests.system.network import network
from tests.system.servers import postgres

pytestmark = pytest.mark.system
PAGE = "cluster.md"
BLOCKS = shell_blocks(PAGE)
SHORT = {"trainer": {"max_images": 160, "val_every_images": 80}}


@pytest.fixture(scope="module")
def top() -> Iterator[Path]:
    """A folder that other users reach: those of pytest they do not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def slurm(top: Path) -> Iterator[Cluster]:
    (top / "slurm").mkdir()
    with network("lc", "10.78.3", 2) as net:
        accounts(net)  # before SLURM's daemons, which keep the files of accounts that they began with
        with cluster(net, top / "slurm") as made:
            yield made


@pytest.fixture(scope="module")
def shared(slurm: Cluster, top: Path) -> Iterator[Lab]:
    """The section on a group: folder, database, tracker, accounts and their files."""
    server, prefix = slurm.net.switch, ["ip", "netns", "exec", slurm.net.switch]
    names = {"10.0.0.0/24": "10.78.3.0/24", "10.0.0.9": "10.78.3.254", "kv_gate": "tiny"}
    module = {"BASH_FUNC_module%%": '() { touch "$HOME/$1-${2//\\//-}-$(hostname)"; }'}
    with lab(slurm.net, top, names, {**slurm.environment, **module}) as made:
        made.run("root", server, BLOCKS["Once, as root, where the folder is"])
        environment(made.folder / "venv")
        (top / "postgres").mkdir()
        with postgres(top / "postgres", prefix) as administrator:
            lines = made.here(BLOCKS["Once, on the server 10.0.0.9, as postgres"])
            subprocess.run([*administrator, "bash", "-ec", lines], check=True, stdout=subprocess.DEVNULL, cwd="/")
            restart = [*administrator, "pg_ctl", "-w", "-s", "restart"]
            subprocess.run(restart, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
            for person in ("anna", "ben"):
                made.run(person, slurm.net.host(1), BLOCKS["Once, everybody of the group"])
            serve = BLOCKS["On the server, for as long as there are studies"].rstrip()
            made.start("anna", server, f"exec {serve} >mlflow.log 2>&1")
            log = made.home("anna") / "mlflow.log"
            wait_for(lambda: log.exists() and "Application startup complete" in log.read_text(), 180)
            yield made


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def study(place: Lab, name: str, **sections: object) -> Lab:
    """Write a small study in the place of the page's, and the page's file that starts from it."""
    place = place.named(kv_gate=name, our_gate=f"our_{name}")
    place.write(PAGE)
    text = f"# @package _global_\n{yaml.safe_dump(FILE | SHORT | sections)}"
    (place.folder / f"studies/study/{name}.yaml").write_text(text)
    return place


def results(place: Lab, name: str) -> dict[Path, dict[str, object]]:
    """The records of a study's cells, by their folders."""
    return {p.parent: json.loads(p.read_text()) for p in (place.folder / f"runs/our_{name}").glob("*/result.json")}


def test_two_people_and_a_guest_at_one_study(shared: Lab) -> None:
    """Each on a machine of their own. Nothing is trained twice, and what the one wrote belongs to the other, too."""
    place = study(shared, "whole", study=STUDY | {"seeds": [0, 1]})
    work = BLOCKS["On each machine that is to work"]
    both = [place.start(who, place.net.host(i), work) for i, who in ((1, "anna"), (2, "ben"))]
    said = [ended(process) for process in both]
    assert [(code, err) for code, _, err in said] == [(0, "")] * 2, said
    shares = [sum(": done" in line for line in out.splitlines()) for _, out, _ in said]
    assert sum(shares) == len(results(place, "whole")) == 8, said
    assert min(shares) > 0
    files = [*(place.folder / "runs").rglob("*")]
    assert {path.stat().st_uid for path in files} == {PEOPLE["anna"], PEOPLE["ben"]}
    # Lightning moves checkpoints from the folder of temporary files, with its group. They are only read and replaced.
    assert {path.suffix for path in files if path.stat().st_gid != NUMBER} <= {".ckpt"}
    assert [path for path in files if not path.stat().st_mode & stat.S_IWGRP] == []
    before = {path: path.stat().st_mtime for path in files}
    out = place.run("guest", place.net.host(2), BLOCKS["A guest"])
    assert "our_whole: 8 done" in out
    assert (place.home("guest") / "reports/our_whole/report.md").exists()
    assert {path: path.stat().st_mtime for path in (place.folder / "runs").rglob("*")} == before
    # Nobody's password is in what a study leaves, or in anybody's output.
    kept = [path.read_bytes() for path in files if path.is_file()]
    assert not [
        data for data in [*kept, out.encode(), *(shown.encode() for _, shown, _ in said)] if b"choose-one" in data
    ]


def test_jobs_with_modules_are_watched_from_elsewhere(shared: Lab, slurm: Cluster) -> None:
    place = study(shared, "jobs", study=STUDY | {"axes": {"size": {"model.dim": [8, 12]}}})
    submitting = place.start("anna", place.net.switch, BLOCKS["Look, and submit"])
    folder = place.folder / "runs/our_jobs"
    wait_for(lambda: list(folder.glob("*/logs/rank-0.log")), 120)
    watched = place.run("ben", place.net.host(2), BLOCKS["Somebody of the group, from any machine"])
    code, out, err = ended(submitting)
    assert (code, err) == (0, ""), out
    assert "#SBATCH --nodes=2" in out
    assert "our_jobs: 2 done\n" in out
    assert re.search(r"^\d+ anna our_jobs-\w+ (RUNNING|PENDING)", watched, re.MULTILINE), watched
    assert "attempt" in watched
    assert {path.name for path in place.home("anna").glob("load-*")} >= {"load-cuda-13.0-lc1"}
    hosts = {json.loads(path.read_text())["host"] for path in folder.glob("*/logs/rank-*.json")}
    assert hosts == {"lc1", "lc2"}
    assert [path for path in folder.rglob("*") if not path.stat().st_mode & stat.S_IWGRP] == []


def test_a_container_without_slurm_is_requeued_and_goes_on(shared: Lab, slurm: Cluster) -> None:
    """The job is told that its time is over while it trains."""
    cell = {"axes": {"size": {"model.dim": [8]}}}
    place = study(shared, "box", study=STUDY | cell, trainer={"max_images": 12800, "val_every_images": 6400})
    programs(place.folder / "image", "python")
    runtime = place.folder / "venv/bin/apptainer"
    runtime.write_text(
        '#!/bin/sh\ntest "$1 $2" = "exec --nv" && test -f "$3" || exit 2\n'
        f'export APPTAINER_CONTAINER="$3" PATH={place.folder}/image\nshift 3\nexec "$@"\n'
    )
    runtime.chmod(0o755)
    (place.folder / "lab.sif").touch()
    submitting = place.start("ben", place.net.switch, BLOCKS["In a container of Apptainer"])
    folder = place.folder / "runs/our_box"

    def trains() -> bool:
        found = list(folder.glob("*/progress.json"))
        return bool(found) and json.loads(found[0].read_text())["images"] > 500

    wait_for(trains, 120)
    (job,) = [json.loads(path.read_text())["job"] for path in folder.glob("*/job.json")]
    slurm.run("scancel", "--signal=USR2", job)
    code, out, err = ended(submitting)
    assert (code, err) == (0, ""), out
    assert "our_box: 1 done\n" in out
    assert "Restarts=1 " in slurm.run("scontrol", "show", "job", "--oneliner", job)
    ((cell_folder, record),) = results(place, "box").items()
    assert record["result"]["problems"] == []
    assert 0 < record["result"]["resumed_at"] < 400
    (process,) = {json.loads(path.read_text())["host"] for path in cell_folder.glob("logs/rank-*.json")}
    assert process in ("lc1", "lc2")


def test_what_a_job_would_ask_for_is_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = [shlex.split(BLOCKS["What a job would ask for"].replace("\\\n", " "))]
    assert words[:2] == ["lina", "plan"]
    assert run.main(["action=plan", *words[2:]]) == 0
    lines = capsys.readouterr().out.splitlines()
    asked = ["gpus-per-node=8", "ntasks-per-node=8", "cpus-per-task=7", "account=vision", "exclude=node7"]
    assert Counter(line for line in lines if line in {f"#SBATCH --{one}" for one in asked}).total() == len(asked)


def test_each_block_of_the_page_is_typed_by_a_test_or_is_an_example() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert {title for title in BLOCKS if f'["{title}"]' not in tests and not title.startswith("Example: ")} == set()
    assert "" not in BLOCKS
