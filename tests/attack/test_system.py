"""What the operating system refuses: one line with the path and what to do, and nothing left over.

A full disk is a real one: a memory file system of some hundred kilobytes in a mount namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distseg.records.paths import Run
from tests.attack.odd import make_odd
from tests.attack.test_outputs import fingerprint
from tests.attack.victim import attack, check
from tests.tiny import PATIENCE_S, ROOT


def predict(run: Run, out: Path, table: Path | None = None) -> tuple[object, ...]:
    images = run.folder.parent / "test_images"
    rle = ("--rle", table) if table else ()
    return ("predict", run.folder, "--images", images, "--out", out, *rle)


# -- files where folders are needed, names that are too long, and the reverse ---------------------

NO_FOLDER = ("a pipe", "a device", "a socket", "a loop", "a dangling link", "a long name")


@pytest.mark.parametrize("what", NO_FOLDER)
@pytest.mark.parametrize("command", ["status", "report", "predict", "images", "out", "rle", "run"])
def test_a_path_that_cannot_be(what: str, command: str, victim: Run, tmp_path: Path) -> None:
    home = tmp_path / "odd"
    home.mkdir()
    path = make_odd(what, home, "x.png")
    config, images = victim.folder.parent / "config.yaml", victim.folder.parent / "test_images"
    out = tmp_path / "out"
    commands: dict[str, tuple[object, ...]] = {
        "status": ("status", path),
        "report": ("report", path),
        "predict": ("predict", path, "--images", images, "--out", out),
        "images": ("predict", victim.folder, "--images", path, "--out", out),
        "out": predict(victim, path),
        "rle": predict(victim, out, path),
        "run": ("run", config, "--out", path),
    }
    outcome = attack(*commands[command])
    check(outcome, (2,))
    assert len(outcome.errors) == 1
    assert not out.exists()


# -- permissions ----------------------------------------------------------------------------------

# Root may read and write everything; without these capabilities it is a user as any other.
PLAIN = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
PREFIX = PLAIN if os.geteuid() == 0 else []
needs_setpriv = pytest.mark.skipif(
    bool(PREFIX) and subprocess.run([*PREFIX, "true"], capture_output=True).returncode != 0,
    reason="root cannot lay down its rights here",
)


def as_plain_user(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The real command line, as a user whom permissions bind."""
    command = [*PREFIX, sys.executable, "-m", "distseg", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)


def close(folder: Path) -> None:
    """From now on the folder may only be read."""
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


@needs_setpriv
@pytest.mark.parametrize("command", ["status", "report"])
def test_a_run_that_may_only_be_read(command: str, victim: Run) -> None:
    before = fingerprint(victim.folder)
    close(victim.folder.parent)
    done = as_plain_user(command, victim.folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert ("a_fold0" if command == "status" else "may only be read") in done.stdout
    assert fingerprint(victim.folder) == before


@needs_setpriv
@pytest.mark.parametrize("what", ["run", "out", "rle", "snapshot", "config", "image"])
def test_no_permission_is_a_line(what: str, victim: Run, tmp_path: Path) -> None:
    base = victim.folder.parent
    close(base)
    mine = tmp_path / "mine"
    mine.mkdir()
    closed = {
        "snapshot": next(victim.folder.rglob("*.safetensors")), "config": base / "config.yaml",
        "image": next((base / "test_images").iterdir()),
    }  # fmt: skip
    if what in closed:
        closed[what].chmod(0)
    commands: dict[str, tuple[object, ...]] = {
        "run": ("run", base / "config.yaml", "--out", base / "new"),
        "out": predict(victim, base / "new"),
        "rle": predict(victim, mine / "out", base / "t.csv"),
        "snapshot": predict(victim, mine / "out"),
        "image": predict(victim, mine / "out"),
        "config": ("config", "show", base / "config.yaml"),
    }
    done = as_plain_user(*commands[what])
    assert done.returncode == (0 if what == "image" else 2), done.stderr
    assert "Traceback" not in done.stderr
    assert "ermission" in done.stderr
    assert not list(mine.rglob("*.tmp")) and not (base / "new").exists()


def test_every_file_of_a_run_follows_the_umask(original: Run) -> None:
    umask = os.umask(0)
    os.umask(umask)
    wrong = [
        path for path in original.folder.rglob("*")
        if path.is_file() and path.stat().st_mode & 0o666 & ~umask != 0o666 & ~umask
    ]  # fmt: skip
    assert not wrong


# -- a full disk, one that may only be read -------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
SMALL_DISK = """
set -e
mount -t tmpfs -o size={size} none "{disk}"
{prepare}
set +e
{command}
echo status=$?
{after}
"""


def on_a_small_disk(
    disk: Path, size: str, prepare: str, command: str, after: str = ""
) -> subprocess.CompletedProcess[str]:
    """Shell commands beside a file system of their own; skips where it cannot be mounted."""
    disk.mkdir()
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not allowed here")
    text = SMALL_DISK.format(disk=disk, size=size, prepare=prepare, command=command, after=after)
    return subprocess.run(
        ["unshare", "-m", "bash", "-c", text], cwd=ROOT, capture_output=True, text=True,
        timeout=PATIENCE_S,
    )  # fmt: skip


def shell(*arguments: object) -> str:
    return " ".join([sys.executable, "-m", "distseg", *(f'"{one}"' for one in arguments)])


@needs_root
def test_a_full_disk_is_a_line_and_the_same_command_goes_on(victim: Run, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    command = shell(*predict(victim, disk / "out", disk / "t.csv"))
    fill = f'head -c 1M /dev/zero > "{disk}/fill" || true'
    after = f'ls -A "{disk}/out"; rm "{disk}/fill"; {command}; echo status=$?; ls -A "{disk}/out"'
    done = on_a_small_disk(disk, "64k", fill, command, after)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1 and "No space left on device" in lines[0] and str(disk) in lines[0]
    _, _, second = done.stdout.partition("status=1")
    assert "status=0" in second and second.count(".png") == 4
    assert ".tmp" not in done.stdout


@needs_root
def test_a_disk_that_may_only_be_read(victim: Run, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    prepare = f'mount -o remount,ro "{disk}"'
    done = on_a_small_disk(disk, "64k", prepare, shell(*predict(victim, disk / "out")))
    assert "status=2" in done.stdout
    assert "Read-only file system" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
@needs_root
def test_a_run_on_a_full_disk_is_a_line(victim: Run, tmp_path: Path) -> None:
    disk, base = tmp_path / "disk", victim.folder.parent
    prepare = f'cp -r "{victim.folder}" "{disk}/run"; rm "{disk}/run/ensemble.json" '
    prepare += f'"{disk}/run/report.html"; head -c 40M /dev/zero > "{disk}/fill" || true'
    command = shell("run", base / "config.yaml", "--out", disk / "run")
    after = f'rm "{disk}/fill"; {command}; echo status=$?; find "{disk}" -name "*.tmp"'
    done = on_a_small_disk(disk, "32m", prepare, command, after)
    assert "Traceback" not in done.stderr
    assert "status=1" in done.stdout and "No space left" in done.stderr
    assert done.stdout.rstrip().endswith("status=0")


# -- terminals and others who do the same ---------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "report"])
def test_a_terminal_of_ascii_alone(command: str, victim: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "distseg", command, str(victim.folder)], cwd=ROOT,
        capture_output=True, timeout=PATIENCE_S, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


@pytest.mark.slow
def test_two_predictions_of_one_table(victim: Run, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "distseg",
        *map(str, predict(victim, tmp_path / "out", tmp_path / "t.csv")),
    ]
    both = [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for one in both:
        errors = one.communicate(timeout=PATIENCE_S)[1]
        assert one.returncode == 0, errors
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 5
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_vanishes(victim: Run, tmp_path: Path) -> None:
    """Between the look and the work: an image folder and a run that are removed."""
    shutil.rmtree(victim.folder / "round_0" / "members" / "a_fold1")
    check(attack(*predict(victim, tmp_path / "out")), (2,), "stage0_epoch0001.safetensors")
    shutil.rmtree(victim.folder.parent / "test_images")
    check(attack(*predict(victim, tmp_path / "out")), (2,), "no such folder")
