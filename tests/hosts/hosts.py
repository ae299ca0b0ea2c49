"""Several hosts on this machine, by the kernel's namespaces, joined by a switch.

A host has its own network (one address, one cable), name, processes, shared memory and temporary
folder, which is its local disk; SHARED is the folder that all hosts share. The rest of the file
system is this machine's. A host is what its first process is: when that ends, the kernel kills
all others of it and takes its cable and its disk away, and it ends with the test, however that
ends. So nothing is left that would have to be put back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from distseg.jobs.guard import die_with_parent
from tests.tiny import PATIENCE_S, ROOT

SHARED = Path("/mnt")  # where every host sees the folder that all share
LOCAL = Path("/tmp")  # a host's own disk; its home and its caches lie there, too
PREFIX = "10.77.0."
NOTHING: Mapping[str, str] = {}
TOOLS = ("ip", "unshare", "nsenter", "mount")
SPACES = ("--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc")

# A host's first process: it gets its disk, says so, and collects what its processes leave behind.
# No umask, profile or start-up file of the machine reaches it.
FIRST = """
set -e
hostname "$NAME"
mount --bind "$FOLDER" /mnt
mount -t tmpfs -o size="$DISK" tmpfs /tmp
mount -t tmpfs -o size=1g tmpfs /dev/shm
mkdir -p /tmp/home
printf '%s\\n' "$NAMES" > /tmp/names
mount --bind /tmp/names /etc/hosts
echo 'hosts: files' > /tmp/order
mount --bind /tmp/order /etc/nsswitch.conf
ip link set lo up
echo ready
while :; do sleep 3600 & wait $!; done
"""


def why_not() -> str:
    """Why this machine can make no hosts; "" where it can."""
    if os.geteuid() != 0:
        return "hosts need root: a network namespace of their own"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"hosts need {', '.join(missing)} (util-linux, iproute2)"
    if hidden := [p for p in (ROOT, Path(sys.prefix)) if {LOCAL, SHARED} & {p, *p.parents}]:
        return f"hosts have their own {LOCAL} and {SHARED}: {hidden[0]} would be hidden"
    tried = subprocess.run(["unshare", *SPACES, "true"], capture_output=True, text=True)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass
class Host:
    """One host. first: the pid of its first process, as this machine counts them; switch: the pid
    of a process in the switch; environment: what its processes get on top of this one's."""

    name: str
    address: str
    first: int
    switch: int
    environment: dict[str, str] = field(default_factory=dict)

    def start(
        self, command: list[str], environment: Mapping[str, str] = NOTHING, log: Path | None = None
    ) -> subprocess.Popen[str]:
        """A process of the host, in SHARED. log: takes what it prints, else a pipe does."""
        home = LOCAL / "home"
        variables = {
            **os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "TMPDIR": str(LOCAL),
            "XDG_CACHE_HOME": str(home / ".cache"), "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": "1", **self.environment, **environment,
        }  # fmt: skip
        out: IO[bytes] | int = log.open("ab") if log else subprocess.PIPE
        try:
            return subprocess.Popen(
                [*_enter(self.first, "net", "uts", "ipc", "mount", "pid"), "sh", "-c",
                 f'cd {SHARED} && exec "$@"', "sh", *command],
                env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                text=True,
            )  # fmt: skip
        finally:
            if not isinstance(out, int):
                out.close()

    def run(self, command: list[str], environment: Mapping[str, str] = NOTHING) -> str:
        """What a command prints. AssertionError, with that, where it fails."""
        process = self.start(command, environment)
        try:
            printed, _ = process.communicate(timeout=2 * PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.signal(process, signal.SIGKILL)
            printed, _ = process.communicate()
            raise AssertionError(f"{self.name}: {command}: no end: {printed}") from None
        assert process.returncode == 0, f"{self.name}: {command}: {printed}"
        return printed

    def signal(self, process: subprocess.Popen[str], number: signal.Signals) -> None:
        """Send a signal to what `start` has started; the process itself only waits for it."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children():
                child.send_signal(number)

    def share_data(self) -> None:
        """What distseg keeps below the home, the synthetic data too, lies on the shared disk."""
        cache = "$HOME/.cache"
        self.run(["sh", "-c", f"mkdir -p {cache} data && ln -s {SHARED}/data {cache}/distseg"])

    def cut(self) -> None:
        """Pull the cable out. Connections stay open on both sides, and hear nothing more."""
        _ip(self.switch, "link", "set", "dev", self.name, "down")

    def mend(self) -> None:
        """Put the cable back."""
        _ip(self.switch, "link", "set", "dev", self.name, "up")

    def vanish(self) -> None:
        """The power goes: the cable is dead first, so that nobody is told, then all processes."""
        self.cut()
        os.kill(self.first, signal.SIGKILL)

    def processes(self) -> list[psutil.Process]:
        """What runs on the host, besides its first process and that one's sleep."""
        space = f"/proc/{self.first}/ns/pid"
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                same = os.readlink(f"/proc/{process.pid}/ns/pid") == os.readlink(space)  # noqa: PTH115
                own = process.pid == self.first or process.name() == "sleep"
                if same and not own and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@dataclass(frozen=True)
class Cable:
    """How bad a cable is: what a frame takes in one direction, and the share that is lost."""

    delay_s: float
    loss: float


@contextlib.contextmanager
def hosts(
    folder: Path, number: int, disk: str = "512m", cable: Cable | None = None
) -> Iterator[list[Host]]:
    """`number` hosts that share `folder` as SHARED, each with a local disk of that size; their
    names are a, b, c, ... Whatever ends the block ends them. cable: of each; a good one by
    default."""
    names = [chr(ord("a") + index) for index in range(number)]
    lines = [f"{PREFIX}{index + 1} {name}" for index, name in enumerate(names)]
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(_namespace(["--net"], "echo ready; exec sleep infinity"))
        _ip(switch.pid, "link", "add", "switch", "type", "bridge")
        _ip(switch.pid, "link", "set", "switch", "up")
        made = []
        for index, name in enumerate(names):
            first = stack.enter_context(
                _namespace(
                    [*SPACES, "--kill-child"], FIRST,
                    NAME=name, FOLDER=str(folder.resolve()), DISK=disk,
                    NAMES="\n".join(["127.0.0.1 localhost", *lines]),
                )
            )  # fmt: skip
            pid = psutil.Process(first.pid).children()[0].pid
            host = Host(name, f"{PREFIX}{index + 1}", pid, switch.pid)
            if cable is not None:
                stack.enter_context(_bad_cable(host, cable, seed=index))
            _plug_in(host, has_cable=cable is not None)
            made.append(host)
        yield made


def _plug_in(host: Host, has_cable: bool) -> None:
    """A cable from the switch, where it has the host's name, to the host, where it is eth0."""
    if not has_cable:
        _ip(host.switch, "link", "add", "name", host.name, "type", "veth", "peer", "name", "eth0",
            "netns", str(host.first))  # fmt: skip
    _ip(host.switch, "link", "set", "dev", host.name, "master", "switch", "up")
    _ip(host.first, "address", "add", f"{host.address}/24", "dev", "eth0")
    _ip(host.first, "link", "set", "eth0", "up")


@contextlib.contextmanager
def _bad_cable(host: Host, cable: Cable, seed: int) -> Iterator[None]:
    """The process that is the cable of a host. It ends with the block, and with this process."""
    numbers = [str(number) for number in (cable.delay_s, cable.loss, seed)]
    command = [sys.executable, str(Path(__file__).with_name("cable.py"))]
    with _ready([*command, str(host.first), str(host.switch), host.name, *numbers]):
        yield


@contextlib.contextmanager
def _namespace(
    spaces: list[str], script: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A shell in namespaces of its own. It ends with the block, and with this process."""
    with _ready(["unshare", *spaces, "sh", "-c", script], **environment) as process:
        yield process


@contextlib.contextmanager
def _ready(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready."""
    process = subprocess.Popen(
        command, env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=die_with_parent,
        start_new_session=True,  # Ctrl-C is the test's: it ends the block, which ends this
    )  # fmt: skip
    try:
        said = process.stdout.readline() if process.stdout else ""
        assert said == "ready\n", f"{command}: {said}"
        yield process
    finally:
        process.kill()
        process.communicate()


def _enter(pid: int, *spaces: str) -> list[str]:
    return ["nsenter", f"--target={pid}", *(f"--{space}" for space in spaces)]


def _ip(pid: int, *arguments: str) -> None:
    """`ip`, in the network of a process."""
    subprocess.run([*_enter(pid, "net"), "ip", *arguments], check=True)
