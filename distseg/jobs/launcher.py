"""`accelerate launch` for the ranks of one machine: `python -m distseg.jobs.launcher ARGUMENTS`.

The store by which the ranks find each other listens on all interfaces, and torch has no option for
another address: whoever reaches it can read and change what the ranks agree on. It does take a
socket that listens already, so here it gets one of this machine's loopback.
"""

from __future__ import annotations

import runpy
import socket
from typing import Any

LOCAL = "127.0.0.1"


def local_store(
    host_name: str, port: int, world_size: int | None, is_master: bool, *more: Any, **options: Any
) -> Any:
    """torch's TCPStore; its master listens on the loopback."""
    from torch.distributed import TCPStore

    if is_master:
        with socket.socket() as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((LOCAL, port))
            listening.listen()
            options["master_listen_fd"] = listening.detach()
    return TCPStore(host_name, port, world_size, is_master, *more, **options)


def main() -> None:
    """Run accelerate's own launcher, with what follows on the command line."""
    from torch.distributed.elastic.rendezvous import static_tcp_rendezvous

    static_tcp_rendezvous.TCPStore = local_store  # type: ignore[misc,assignment]
    runpy.run_module("accelerate.commands.launch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
