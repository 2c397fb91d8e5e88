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

    def __init__(self, folder: Path, port: int = 5071) -> None:
        self.folder, self.port = folder, port
        self.process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        store = f"sqlite:///{self.folder / 'server.db'}"
        arguments = ["--backend-store-uri", store, "--artifacts-destination", str(self.folder / "artifacts")]
        listening = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *listening, *arguments],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(lambda: answers(self.uri), 180)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def postgres(folder: Path, prefix: Sequence[str]) -> Iterator[list[str]]:
    """A PostgreSQL server that listens at a socket in `folder`; yields the start of commands of its administrator.

    It does not run as root; `prefix` starts it on another host. `pg_ctl restart` needs no more arguments.
    """
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    data = folder / "data"
    for parent in (folder, *folder.parents):
        parent.chmod(parent.stat().st_mode | 0o055)
        if parent.parent == Path("/tmp"):
            break
    shutil.chown(folder, "postgres")
    variables = [f"PATH={programs}:/usr/bin:/bin", f"PGHOST={folder}", f"PGDATA={data}", f"PGCTLTIMEOUT={120}"]
    user = [*prefix, "runuser", "-u", "postgres", "--", "env", *variables]

    def control(*arguments: str) -> None:
        # The server keeps what is open: a pipe would not end.
        with (folder / "control.log").open("ab") as log:
            subprocess.run([*user, *arguments], check=True, stdout=log, stderr=log, cwd="/")

    control("initdb", "-A", "trust")
    control("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-c unix_socket_directories={folder}", "start")
    try:
        yield user
    finally:
        control("pg_ctl", "-w", "-m", "immediate", "stop")
