"""A bad cable between a host and the switch: every frame comes late, some never.

    python cable.py HOST_PID SWITCH_PID NAME DELAY_S LOSS SEED

Two TAP devices, `eth0` in the network of the host and NAME in that of the switch, and this process
between them; they go with it. The kernel needs no queueing discipline (netem) for it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

TUNSETIFF, IFF_TAP, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0002, 0x1000, 0x40000000
FRAME_BYTES = 65_536


def tap(pid: int, name: str) -> int:
    """The file of a new TAP device in the network of a process; this one moves there."""
    space = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(space, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(space)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def carry(ends: tuple[int, int], delay_s: float, loss: float, dice: random.Random) -> None:
    """Read frames at each end and write them to the other, for ever."""
    under_way: deque[tuple[float, int, bytes]] = deque()  # the delay is one: first in, first out
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for end in select.select(ends, (), (), wait)[0]:
            frame = os.read(end, FRAME_BYTES)
            if dice.random() >= loss:
                other = ends[1] if end == ends[0] else ends[0]
                under_way.append((time.monotonic() + delay_s, other, frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, frame = under_way.popleft()
            try:
                os.write(end, frame)
            except OSError:  # the cable is out at that end
                continue


def main(host: str, switch: str, name: str, delay_s: str, loss: str, seed: str) -> None:
    ends = tap(int(host), "eth0"), tap(int(switch), name)
    print("ready", flush=True)
    carry(ends, float(delay_s), float(loss), random.Random(int(seed)))


if __name__ == "__main__":
    main(*sys.argv[1:])
