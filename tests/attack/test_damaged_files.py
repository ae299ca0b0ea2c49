"""Every file of a run, damaged in every way: named or healed, and nothing ends in a traceback.

`status`, `report` and `predict` read it, and `run` is started again. What a run can make again is
made again; for the rest one line names the file and says what to remove.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from distseg.records.paths import Run
from tests.attack.victim import attack, check

DAMAGE: dict[str, Callable[[Path], object]] = {
    "lost": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "not_utf8": lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()[2:]),
    "flipped": lambda path: path.write_bytes(_flip(path.read_bytes())),
    "a_list": lambda path: path.write_bytes(b"[1, 2]\n"),
    "null": lambda path: path.write_bytes(b"null\n"),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "a_folder": lambda path: _make_folder(path),
}
FILES = (
    "config.yaml", "env.json", "ledger.jsonl", "folds.csv", "ensemble.json", "report.json",
    "report.html", "data/statistics.json", "data/test.csv", "data/quarantine.csv",
    "data/balance.csv", "data/files.csv", "round_0/train.csv", "round_0/ensemble/ensemble.json",
    "round_0/ensemble/oof.csv", "cache/*.key", "cache/*/index.json", "cache/*/images.u8",
    "cache/*/targets.u8", "round_0/members/a_fold0/DONE", "round_0/members/a_fold0/metrics.jsonl",
    "round_0/members/a_fold0/config.yaml", "round_0/members/a_fold0/oof_scores.json",
    "round_0/members/a_fold0/oof/index.csv", "round_0/members/a_fold0/oof/logits.f16",
    "round_0/members/a_fold0/snapshots/stage0_epoch0001.safetensors",
    "round_0/members/a_fold0/snapshots/stage0_epoch0001.json",
)  # fmt: skip
# What a command cannot do without: it may refuse, with the name of the file.
NEEDED = {
    "status": ("config.yaml",),
    "report": ("config.yaml", "ensemble.json", "round_0/train.csv"),
    "predict": (
        "config.yaml", "ensemble.json",
        "round_0/members/a_fold0/snapshots/stage0_epoch0001.safetensors",
    ),
}  # fmt: skip
FAST = ("truncated", "lost")  # in the usual tests: of the other kinds `make test-slow`


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _flip(data: bytes) -> bytes:
    """Some bytes in the middle are others."""
    middle = len(data) // 2
    return data[:middle] + bytes(b ^ 0x15 for b in data[middle : middle + 4]) + data[middle + 4 :]


def damage(run: Run, file: str, kind: str) -> None:
    found = sorted(run.folder.glob(file))
    assert found, file
    DAMAGE[kind](found[0])


def arguments(command: str, run: Run, tmp_path: Path) -> tuple[object, ...]:
    images = run.folder.parent / "test_images"
    own = {"predict": ("--images", images, "--out", tmp_path / "out")}
    return (command, run.folder, *own.get(command, ()))


CASES = [
    pytest.param(
        kind, file, command, marks=() if kind in FAST else pytest.mark.slow,
        id=f"{kind}-{file}-{command}",
    )
    for kind in DAMAGE
    for file in FILES
    for command in NEEDED
]  # fmt: skip


@pytest.mark.parametrize(("kind", "file", "command"), CASES)
def test_what_reads_a_run_survives(
    kind: str, file: str, command: str, victim: Run, tmp_path: Path
) -> None:
    damage(victim, file, kind)
    outcome = attack(*arguments(command, victim, tmp_path))
    needed = file in NEEDED[command]
    if kind == "a_folder" and command == "report":
        needed |= file.startswith("report.")  # where it writes
    check(outcome, (0, 2) if needed else (0,))
    if outcome.status == 2:
        assert Path(file).name in outcome.errors[0] or "no run here" in outcome.errors[0]
    assert not list(victim.folder.rglob("*.tmp"))


# What a second start makes again without a job, and what its message must name else.
HEALED = tuple(name for name in FILES if "members" not in name and name != "config.yaml")


KINDS = [k if k in FAST else pytest.param(k, marks=pytest.mark.slow) for k in DAMAGE]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", HEALED)
def test_a_second_start_makes_it_again(kind: str, file: str, victim: Run, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in victim.folder.rglob("ensemble.json")}
    damage(victim, file, kind)
    outcome = attack("run", tmp_path / "v" / "config.yaml", "--out", victim.folder)
    refused = kind == "a_folder" or file == "folds.csv"
    check(outcome, (0, 1, 2) if refused else (0,))
    if outcome.status == 0:
        assert {path: path.read_bytes() for path in victim.folder.rglob("ensemble.json")} == before
        check(attack("report", victim.folder), (0,))
    else:
        assert Path(file).name.strip("*") in outcome.said


def test_a_run_that_lost_whole_folders_is_read(victim: Run, tmp_path: Path) -> None:
    for name in ("oof", "snapshots"):
        shutil.rmtree(victim.member(0, "a", 1).folder / name)
    for command in ("status", "report"):
        check(attack(command, victim.folder), (0,))
    outcome = attack(*arguments("predict", victim, tmp_path))
    check(outcome, (2,), "stage0_epoch0001.safetensors")
