"""`distseg tune RUN --postprocess`: the joint search over a finished run, and what is printed."""

from __future__ import annotations

from typing import Any

from distseg.config.schema import Config
from distseg.records import log
from distseg.records.paths import Run
from distseg.run.folder import driver_lock
from distseg.run.summary import report


def tune_postprocess(config: Config, run: Run) -> str:
    """Search, write the report again where the ensemble changed; returns the lines to print.

    Raises:
        UserError: the run has no ensemble yet, or another driver works on it.
    """
    from distseg.ensemble.joint import search_joint

    with driver_lock(run):
        log.setup(run.log)
        record = search_joint(config, run)
        lines = [_cost_line(record), _verdict_line(config, record)]
        if record["adopted"]:
            lines.append(report(config, run))
            lines.append("the submission is older: `distseg run` makes it again")
    return "\n".join(lines)


def _cost_line(record: dict[str, Any]) -> str:
    mixtures = "1 mixture" if record["mixtures"] == 1 else f"{record['mixtures']} mixtures"
    return (
        f"{record['candidates_per_class']:,} candidates a class ({mixtures} x "
        f"{record['rules_per_class']:,} rules) on {record['rows']:,} images in "
        f"{record['seconds']:.1f} s: {1e6 * record['seconds_per_candidate']:.1f} µs a candidate"
    )


def _verdict_line(config: Config, record: dict[str, Any]) -> str:
    what = "adopted" if record["adopted"] else "not adopted"
    scores = f"{record['before']:.4f} -> {record['after']:.4f}"
    return f"{what}: nested {config.metric} {scores}: {record['reason']}"
