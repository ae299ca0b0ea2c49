"""The live view in a real terminal, and what it says of the time left against the truth.

    python benchmarks/live_view.py --out benchmarks/results/live_view [--columns 80 160]

Runs the quickstart and a run of two rounds in tmux (a Debian package), once for each width. Each
screen that differs from the one before is kept in RUN_COLUMNS.txt, to be looked at; the table in
results.md holds the time that the screen said was left when a tenth, a half and nine tenths of the
whole time had passed, as a share of what was left in truth. The first width finds a machine that
has shown no pace yet, the second one that has run the same before. Times are only true on a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROUNDS = [{"kind": "supervised"}, {"kind": "self_distill", "teacher": "oof"}]
RUNS = {"quickstart": [], "rounds": [f"rounds={json.dumps(ROUNDS)}"]}
MOMENTS = (0.1, 0.5, 0.9)
LINES = 30  # of the terminal
POLL_S = 0.5
UNITS = {"h": 3600, "m": 60, "s": 1}

Screen = tuple[float, str]  # seconds since the start, what stands there


def tmux(*arguments: str) -> str:
    """What tmux answers; of a server of its own, so that no one's settings count."""
    done = subprocess.run(["tmux", "-L", "live_view", "-f", "/dev/null", *arguments],
                          stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
    return done.stdout


def watch(command: list[str], columns: int, folder: Path) -> tuple[list[Screen], float, int]:
    """(the screens of a command in a terminal, seconds that it took, its exit status)."""
    ended = folder / f"exit_{columns}"
    line = f"{shlex.join(command)}; echo $? > {shlex.quote(str(ended))}; sleep 5"
    screens: list[Screen] = []
    began = time.monotonic()
    tmux("new-session", "-d", "-s", "run", "-x", str(columns), "-y", str(LINES), "-c",
         str(folder), "sh", "-c", line)  # fmt: skip
    try:
        while not (ended.is_file() and ended.read_text().strip()):
            screen = tmux("capture-pane", "-p", "-t", "run").rstrip()
            if not screens or screen != screens[-1][1]:
                screens.append((time.monotonic() - began, screen))
            time.sleep(POLL_S)
        took = time.monotonic() - began
        screens.append((took, tmux("capture-pane", "-p", "-t", "run").rstrip()))
    finally:
        tmux("kill-server")
    return screens, took, int(ended.read_text())


def seconds_of(text: str) -> int:
    """Seconds of a duration as the view writes it: 42s, 3m05s, 2h07m."""
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([hms])", text))


def told(screens: list[Screen], took: float, moment: float) -> float | None:
    """What was last said until a moment is left, less what has passed since it was first said, as a
    share of what was left in truth. A table that has ended stays on the screen: its line is no new
    one. None: no number is said."""
    at, said, line = moment * took, 0.0, ""
    for seconds, screen in screens:
        lines = [one for one in screen.splitlines() if "ETA " in one]
        if seconds <= at and lines and lines[-1] != line:
            said, line = seconds, lines[-1]
    found = re.search(r"ETA ((?:\d+[hms])+)", line)
    return max(0.0, seconds_of(found[1]) - (at - said)) / (took - at) if found else None


def record(name: str, columns: int, cache: str, out: Path) -> str:
    """Keep the screens of a run; returns its row of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = ["-u", "DISTSEG_PACES", f"XDG_CACHE_HOME={cache}"]
        config, out_option = str(ROOT / "configs/quickstart.yaml"), ["--out", f"{scratch}/run"]
        command = ["env", *settings, sys.executable, "-m", "distseg", "run", config, *RUNS[name],
                   *out_option]  # fmt: skip
        screens, took, code = watch(command, columns, Path(scratch))
    text = "".join(f"--- {seconds:.1f} s\n{screen}\n" for seconds, screen in screens)
    (out / f"{name}_{columns}.txt").write_text(text, encoding="utf-8")
    shares = [told(screens, took, moment) for moment in MOMENTS]
    said = " | ".join("nothing" if s is None else f"{s:.2f} of the truth" for s in shares)
    return f"| {name} | {columns} | {took:.0f} s | {code} | {said} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, nargs="+", default=[80, 160])
    parser.add_argument("--runs", nargs="+", default=[*RUNS], choices=[*RUNS])
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # its terminal goes with it
    args.out.mkdir(parents=True, exist_ok=True)
    rows = ["| run | columns | took | exit | told to be left at 10 % | at 50 % | at 90 % |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name in args.runs:
        with tempfile.TemporaryDirectory() as cache:  # of what the machine has shown: nothing yet
            for columns in args.columns:
                rows.append(record(name, columns, cache, args.out))
                (args.out / "results.md").write_text("\n".join(rows) + "\n", encoding="utf-8")
                print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
