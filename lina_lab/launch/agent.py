"""TorchElastic on one machine: starts a group's processes there and watches them.

`python -m lina_lab.launch.agent FOLDER NODE MASTER PORT PARENT` does what `torchrun --node-rank NODE --master-addr
MASTER --master-port PORT` would do, without restarts (`group.py` restarts whole groups, each with an address of its
own), and writes down how each process ended. It ends with the process PARENT, which has started it.
"""

import json
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path

from lina_lab.launch.contract import GroupExit, LaunchSpec, ProcessExit
from lina_lab.launch.rank import end_with_parent, network_variables
from lina_lab.records.files import LOGS
from lina_lab.util.files import write_atomically
from lina_lab.util.signals import dropped_stops_come_again

JOIN_SECONDS = 60
"""How long the machines of a group wait for each other."""


def main(folder: Path, node: int, master: str, port: int, parent: int) -> int:
    """Run the machine's part of the group to its end; 0 if all its processes exited with 0."""
    end_with_parent(parent)
    spec = LaunchSpec.read(folder)
    os.environ.update(network_variables(_own_address(master), os.environ))
    os.environ["OMP_NUM_THREADS"] = str(spec.resources.threads)
    ended = _run(folder, node, master, port, spec)
    write_atomically(folder / LOGS / f"node-{node}.json", json.dumps({"attempt": spec.attempt, **asdict(ended)}))
    return 0 if ended.well else 1


def _run(folder: Path, node: int, master: str, port: int, spec: LaunchSpec) -> GroupExit:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=spec.resources.nodes,
        max_nodes=spec.resources.nodes,
        nproc_per_node=spec.resources.devices,
        run_id=spec.attempt,
        rdzv_backend="static",
        rdzv_endpoint=f"{master}:{port}",
        rdzv_configs={"rank": node, "timeout": JOIN_SECONDS},
        max_restarts=0,
        monitor_interval=0.2,
        start_method="spawn",
    )
    host = socket.gethostname()
    try:
        with dropped_stops_come_again():
            elastic_launch(config, sys.executable)("-m", "lina_lab.launch.rank", str(folder), str(os.getpid()))
    except ChildFailedError as error:
        failures = sorted(error.failures.items(), key=lambda item: item[1].timestamp)
        return GroupExit(exits=[ProcessExit(rank=rank, code=end.exitcode, host=host) for rank, end in failures])
    except Exception as error:
        return GroupExit(sentence=f"{host}: {type(error).__name__}: {error}"[:2000])
    return GroupExit(well=True)


def _own_address(master: str) -> str:
    """This machine's address on the way to `master`, by which others on that network reach it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: connecting a datagram socket only chooses a route.
        probe.connect((master, 9))
        return str(probe.getsockname()[0])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
