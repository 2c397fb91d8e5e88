"""A lab on a network of tests: people with accounts, a folder that they share, and the commands of a page.

Accounts exist on the machines of the network alone: `ip netns exec` puts the files of /etc/netns over those of /etc.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, titled
from tests.system.network import Network

SHELL = re.compile(r'^```bash(?: title="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
GROUP, NUMBER = "lab", 4100
PEOPLE = {"anna": 4101, "ben": 4102, "guest": 4103}
"""Anna and Ben are of the group; the guest is not."""


def shell_blocks(page: str) -> dict[str, str]:
    """The blocks of shell commands of a page, by their titles."""
    found = SHELL.findall((ROOT / "docs" / page).read_text())
    assert len(dict(found)) == len(found), "two blocks have one title"
    return dict(found)


def typed(block: str, **here: str) -> list[list[str]]:
    """The arguments for Python of each `lina` command of a block; what the page says -> what it is here."""
    for there, name in here.items():
        block = block.replace(there, name)
    lines = [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    assert all(words[0] == "lina" for words in lines), block
    return [["-m", "lina_lab.cli", *words[1:]] for words in lines]


@dataclass(frozen=True)
class Lab:
    """People, on machines that share a folder."""

    net: Network
    folder: Path
    """The folder that they share."""
    names: Mapping[str, str]
    """What a page says -> what it is here."""
    environment: Mapping[str, str]
    """Variables of everybody."""

    def named(self, **names: str) -> "Lab":
        """The same, where words of a page mean something else."""
        return replace(self, names={**self.names, **names})

    def here(self, text: str) -> str:
        """A page's text with the addresses, folders and studies that are here."""
        for there, here in self.names.items():
            text = text.replace(there, here)
        return text

    def home(self, person: str) -> Path:
        return self.folder.parent / "home" / person

    def write(self, page: str) -> None:
        """Write the files of `studies/` that a page shows."""
        for name, body in titled((ROOT / "docs" / page).read_text()).items():
            if name.startswith("studies/"):
                path = self.folder / self.here(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self.here(body))

    def start(self, person: str, host: str, lines: str) -> "subprocess.Popen[str]":
        """Let somebody type lines of a page on a machine, after a login there."""
        account = {"HOME": str(self.home(person)), "USER": person, "OMP_NUM_THREADS": "1", **self.environment}
        variables = ["env", "-i", *(f"{name}={value}" for name, value in account.items())]
        as_person = ["setpriv", f"--reuid={person}", f"--regid={person}", "--init-groups"]
        command = [*as_person, *variables, "bash", "--login", "-e", "-c", self.here(lines)]
        return self.net.start(host, command, self.home(person))

    def run(self, person: str, host: str, lines: str) -> str:
        """The same, to its end: what it printed. It must end well and say nothing on standard error."""
        process = self.start(person, host, lines)
        out, err = process.communicate(timeout=240)
        assert (process.returncode, err) == (0, ""), out + err
        return out


def accounts(net: Network) -> None:
    """Make the people's accounts on all machines, for processes that start from now on."""
    passwd, group = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
    for name, number in PEOPLE.items():
        passwd += f"{name}:x:{number}:{number}::/nonexistent:/bin/bash\n"
        group += f"{name}:x:{number}:\n"
    group += f"{GROUP}:x:{NUMBER}:anna,ben\n"
    for host in [net.switch, *(net.host(i) for i in range(1, net.count + 1))]:
        Path("/etc/netns", host, "passwd").write_text(passwd)
        Path("/etc/netns", host, "group").write_text(group)


def programs(folder: Path, *names: str) -> None:
    """Put the tested environment's programs into a folder; each other file of its `bin` stays outside."""
    modules = {"lina": " -m lina_lab.cli", "mlflow": " -m mlflow", "python": ""}
    folder.mkdir(parents=True)
    for name in names:
        # Debian's sh would drop functions from the environment, such as a cluster's `module`.
        (folder / name).write_text(f'#!/bin/bash\nexec {sys.executable}{modules[name]} "$@"\n')
        (folder / name).chmod(0o755)


def environment(folder: Path) -> None:
    """Make a virtual environment out of the tested one."""
    programs(folder / "bin", "lina", "mlflow", "python")
    (folder / "bin/activate").write_text(f"PATH={folder}/bin:$PATH\n")


@contextmanager
def lab(net: Network, top: Path, names: Mapping[str, str], variables: Mapping[str, str]) -> Iterator[Lab]:
    """Give the people of a network's machines homes and a folder that they share.

    Args:
        net: the machines.
        top: a folder that everybody may read; homes and the shared folder are in it.
        names: what a page says -> what it is here, beside the shared folder.
        variables: of everybody's environment.
    """
    made = Lab(net, top / "lab", {"/shared/lab": str(top / "lab"), **names}, variables)
    for person, number in {"root": 0, **PEOPLE}.items():
        made.home(person).mkdir(parents=True)
        os.chown(made.home(person), number, number)
    process = made.start("guest", net.host(1), f"{sys.executable} -c 'import lina_lab'")
    process.communicate()
    if process.returncode:
        pytest.skip(f"other users may not read {sys.executable} or {ROOT}: clone where everybody may")
    yield made
