"""Write the table of results in README.md from benchmarks/results/*/report.json, by the code of
`distseg compare`. With --print: to standard output.

    python docs/generate_results.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distseg.records.log import duration
from distseg.records.paths import ALL_ROUNDS
from distseg.report.compare import reported_run, run_cells

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- made by docs/generate_results.py -->\n", "<!-- end of what is made -->\n"
HEAD = (
    *("run", "score, out of fold and nested", "±", "images", "score is", "models alone"),
    *("time, on", "command"),
)


def config_path(name: str) -> str:
    """Where the config of a run stands, as a command names it."""
    found = [
        path for path in ("configs", "configs/seeds") if (ROOT / path / f"{name}.yaml").exists()
    ]
    if not found:
        raise SystemExit(f"benchmarks/results: no config is called {name}")
    return f"{found[0]}/{name}.yaml"


def rows_of(name: str, report: dict[str, Any]) -> Iterator[list[str]]:
    """The cells of a run, and of each of its rounds where it has several."""
    machine, metric = report["hardware"], report["metric"]
    gpus = [gpu["name"] for gpu in machine["gpus"]]
    where = gpus[0] if gpus else f"{machine['cores']} CPU cores"
    run = reported_run(f"`{name}`", report)
    label, score, error, images, flag = run_cells(run, metric)
    alone = [f"{one} {value:.4f}" for one, value in run["members"].items()]
    time = f"{duration(report['seconds']['wall'])}, {where}"
    command = f"`distseg run {config_path(report['name'])} data.root=...`"
    models = ", ".join(alone) if len(alone) > 1 and run["rounds"] == 1 else ""
    yield [label, f"{metric} {score}", error, images, flag, models, time, command]
    if run["rounds"] < 2:
        return
    for one in report["rounds"]:
        what = (
            f"round {one['round']}: {one['kind']}" if one["round"] != ALL_ROUNDS else "all rounds"
        )
        own = {**run, **{key: one[key] for key in ("score", "standard_error", "flag")}}
        _, score, error, images, flag = run_cells({**own, "label": what}, metric)
        yield [f"— {what}", f"{metric} {score}", error, images, flag, "", "", ""]


def table() -> str:
    """The table in Markdown."""
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for path in sorted(RESULTS.glob("*/report.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        lines += [f"| {' | '.join(row)} |" for row in rows_of(path.parent.name, report)]
    return "\n".join(lines) + "\n"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    if "--print" in sys.argv:
        print(table(), end="")
        return
    README.write_text(
        f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
