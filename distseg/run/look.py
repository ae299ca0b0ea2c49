"""`distseg inspect`: the survey of a data set, as text, JSON and a page."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from distseg.config.schema import Config
from distseg.data.survey.findings import Finding
from distseg.records.errors import UserError, printable

MOST_IDS = 5  # of a finding in the text; JSON and page have more


def look_at_data(config: Config, out: Path | None, *, as_json: bool = False) -> tuple[str, int]:
    """(what `distseg inspect` prints, serious findings). out: a folder for page and JSON.

    UserError: `out` lies among the data, or the set is not what the config takes it for.
    """
    from distseg.data.inspect import report
    from distseg.data.layouts import layout
    from distseg.data.survey.survey import record, survey

    if out is not None:
        _refuse_among_data(config, out)
    form = layout(config.data.format)
    train, test = form.train(config), form.test(config)
    surveyed, checked, findings = survey(config, train, test, _tick)
    found = record(surveyed, checked, findings)
    text = report(surveyed.config, checked, len(test), found["passed_over"])
    lines = [text, *findings_lines(findings)]
    if out is not None:
        from distseg.report.survey_page import write_survey

        page = write_survey(out, surveyed, findings, found, train, test)
        lines.append(f"page: {page}")
    text = json.dumps(found, indent=2) if as_json else printable("\n".join(lines))
    return text, found["serious"]


def findings_lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each finding, with its first ids."""
    lines = [f"findings: {len(findings) or 'none'}"]
    for finding in findings:
        ids = "; ".join(finding.ids[:MOST_IDS])
        more = len(finding.ids) - MOST_IDS
        rest = f"; and {more:,} more" if more > 0 else ""
        whose = f": {ids}{rest}" if ids else ""
        lines.append(f"  {finding.level}: {finding.kind}: {finding.what}{whose}")
    return lines


def _refuse_among_data(config: Config, out: Path) -> None:
    root = Path(config.data.root).resolve()
    if config.data.format != "synthetic" and out.resolve().is_relative_to(root):
        raise UserError(f"--out: {out}: lies among the data ({root}); choose another folder")


def _tick(what: str, number: int, total: int) -> None:
    """Progress on a terminal; silence elsewhere."""
    if sys.stderr.isatty() and (number % max(1, total // 200) == 0 or number == total):
        end = "\n" if number == total else ""
        print(f"\r{what}: {number:,} of {total:,}", end=end, file=sys.stderr, flush=True)
