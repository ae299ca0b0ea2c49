"""What `distseg doctor` asks of a Ray cluster: folder, versions, cores, ways between nodes."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distseg.config.schema import ComputeConfig
from distseg.jobs.ray import connect
from distseg.jobs.ray_nodes import ANSWER_S, Nodes, one_line
from distseg.records.errors import UserError
from distseg.records.log import counted
from distseg.records.paths import Run

Line = tuple[str, str, str]
DIAL_S = 10.0


class Listener:
    """A port of this node that greets whoever calls, as a rank 0 would."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("", 0))
        threading.Thread(target=self._greet, daemon=True).start()

    def _greet(self) -> None:
        while True:
            self.socket.accept()[0].close()

    def address(self) -> tuple[str, int]:
        return ray.util.get_node_ip_address(), self.socket.getsockname()[1]


@ray.remote(num_cpus=0, max_retries=0)
def dial(address: tuple[str, int]) -> str:
    """ "" when the address answers, else why not."""
    try:
        socket.create_connection(address, timeout=DIAL_S).close()
    except OSError as error:
        return str(error)
    return ""


def examine_cluster(compute: ComputeConfig) -> Iterator[Line]:
    """The nodes of RAY_ADDRESS, with the folder `runs` here as the place that all must see."""
    if "RAY_ADDRESS" not in os.environ:
        yield "ok", "RAY_ADDRESS is not set: Ray is started on this machine alone", ""
        return
    try:
        ours = connect()
    except UserError as error:
        yield "fail", str(error), ""
        return
    Path("runs").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir="runs"))
    try:
        nodes = Nodes(compute, Run(folder))
        for key, node in nodes.known.items():
            what = (
                f"{counted(len(node.slots), 'job')} at a time" if node.slots else "coordinates only"
            )
            yield "ok", f"node {key[:8]} ({node.host}): {what}", ""
        for key, reason in nodes.refused.items():
            yield "fail", f"node {key[:8]}: {reason}", "until then it gets no jobs"
        yield from _ways(list(nodes.known))
        if not nodes.slots():
            yield "fail", "no node can take a job", ""
        mode = os.environ.get("RAY_AUTH_MODE", "")
        advice = "export RAY_AUTH_MODE=token on every node (docs/cluster.md)"
        yield (
            ("ok" if mode == "token" else "warn"),
            f"Ray tokens: {mode or 'not set'}",
            ("" if mode == "token" else advice),
        )
    finally:
        shutil.rmtree(folder)
        if ours:
            ray.shutdown()


def _ways(keys: list[str]) -> Iterator[Line]:
    """Whether every node reaches a free port of the first, as NCCL and gloo need it."""
    if len(keys) < 2:
        return
    here = NodeAffinitySchedulingStrategy(keys[0], soft=False)
    listener = ray.remote(Listener).options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        address = ray.get(listener.address.remote(), timeout=ANSWER_S)
        for key in keys[1:]:
            there = NodeAffinitySchedulingStrategy(key, soft=False)
            answer = dial.options(scheduling_strategy=there).remote(address)
            error = ray.get(answer, timeout=ANSWER_S)
            text = f"node {key[:8]} to {address[0]}:{address[1]}"
            if error:
                yield (
                    "fail",
                    f"{text}: {error}",
                    "NCCL needs all ports between nodes",
                )
            else:
                yield "ok", f"{text}: open", ""
    except (RayError, GetTimeoutError) as error:
        yield "fail", f"nodes do not answer: {one_line(error)}", ""
    finally:
        ray.kill(listener)
