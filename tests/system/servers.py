"""Servers that a study may use, started for a test."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.system.conftest import wait_for


def answers(uri: str) -> bool:
    """Whether an MLflow server is up; its first answers may take long."""
    try:
        return requests.get(f"{uri}/health", timeout=5).ok
    except (requests.ConnectionError, requests.Timeout):
        return False


class Server:
    """An MLflow server that can be stopped and restarted."""

    def __init__(self, folder: Path, port: int = 5071, address: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        self.folder, self.port, self.address, self.prefix = folder, port, address, prefix
        self.process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://{address}:{port}"

    def start(self) -> None:
        store = f"sqlite:///{self.folder / 'server.db'}"
        arguments = ["--backend-store-uri", store, "--artifacts-destination", str(self.folder / "artifacts")]
        listening = ["--host", self.address, "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "mlflow", "server", *listening, *arguments],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._answers, 180)

    def _answers(self) -> bool:
        if self.prefix:
            ask = "import requests, sys; requests.get(sys.argv[1], timeout=5).raise_for_status()"
            asked = [*self.prefix, sys.executable, "-c", ask, f"{self.uri}/health"]
            return subprocess.run(asked, check=False, capture_output=True).returncode == 0
        return answers(self.uri)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def database(folder: Path, port: int, address: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a PostgreSQL server, which does not run as root; `prefix` starts it on another host."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    data = folder / "data"
    for parent in (folder, *folder.parents):
        parent.chmod(parent.stat().st_mode | 0o055)
        if parent.parent == Path("/tmp"):
            break
    shutil.chown(folder, "postgres")
    user = [*prefix, "runuser", "-u", "postgres", "--"]
    subprocess.run([*user, programs / "initdb", "-D", data, "-A", "trust"], check=True, capture_output=True, cwd="/")
    with (data / "pg_hba.conf").open("a") as file:
        file.write(f"host all all {address}/16 trust\n")
    options = f"-p {port} -c listen_addresses={address} -c unix_socket_directories={folder}"
    control = [*user, programs / "pg_ctl", "-D", data, "-w"]
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], check=True, capture_output=True, cwd="/")
    try:
        where = ["-h", address, "-p", str(port)]
        subprocess.run([*user, programs / "createdb", *where, "optuna"], check=True, capture_output=True, cwd="/")
        yield f"postgresql+psycopg://postgres@{address}:{port}/optuna"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
