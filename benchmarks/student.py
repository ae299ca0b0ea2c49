"""What a student keeps of its ensemble's score, and what it costs beside it.

    python benchmarks/student.py quickstart --work /tmp/student
    python benchmarks/student.py tgs_salt_cpu data.root=data/tgs data.limit=600 \
        data.folds='{kind: stratified, num: 2}' --student resnet18 --set '...' --work /tmp/student

Runs the config, then `distseg export --student` on it. The scores are nested, out of fold and on
the same images; where the data set has the truth of its test images, both are scored on that, too,
where the ensemble is that of all folds and the student the one network that is handed on. Times are
given as a ratio: they were measured in turns. The rows of all calls are kept in OUT.json, and the
table in OUT.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

import distseg
from distseg.config.load import load_config
from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from distseg.export.student import table
from distseg.functional.bootstrap import paired_difference
from distseg.functional.metrics import count_masks
from distseg.records.files import atomic_write, read_json_or, write_json
from distseg.records.paths import Run

HEAD = """\
What the one network of `distseg export RUN --student` keeps of the score of its ensemble, nested and out
of fold on the same images, with the paired difference and its standard error; the same on test images
whose truth is known, where there are some: there the ensemble is that of all folds. And what it costs,
as a share of the ensemble's. Made by `benchmarks/student.py`; each row's command stands below.

| run | student | ensemble | student's | kept | difference | difference on test images | networks | parameters | time an image | size |
|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501  a row of a Markdown table


def on_test(source: Path, model: Path) -> dict[str, float] | None:
    """The paired difference of the exported student from the ensemble on test images with a truth;
    None without one."""
    config = load_config(Run(source).config)
    rows = [row for row in layout(config.data.format).test_truth(config) or [] if row.target]
    if not rows:
        return None
    counts = []
    for folder in (model, source):
        own = []
        for row, one in zip(
            rows, distseg.load_ensemble(folder).predict([row.image for row in rows]), strict=True
        ):
            target = read_target(row.target, config, *one.mask.shape[-2:])
            masks = one.mask if one.mask.ndim == 3 else one.mask[None]
            own.append(count_masks(masks, target, config.num_outputs, config.task))
        counts.append(np.stack(own))
    return paired_difference(counts[0], counts[1], config.metric, seed=0)


def row_of(record: dict[str, Any]) -> str:
    """A line of the table."""
    told, test = record["student"], record["test"]
    before, now, score = told["ensemble"], told["student"], told["score"]
    shares = [f"{100 * now[k] / before[k]:.1f} %" for k in ("parameters", "ms_per_image", "bytes")]
    cells = [
        record["label"],
        record["what"],
        f"{score['before']:.4f}",
        f"{score['now']:.4f}",
        f"{100 * told['share']:.1f} %",
        f"{score['difference']:+.4f} ± {score['standard_error']:.4f}",
        f"{test['difference']:+.4f} ± {test['standard_error']:.4f}" if test else "–",
        f"{now['networks']} of {before['networks']}",
        *shares,
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--student", default="", metavar="ENCODER")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="of the student")
    parser.add_argument("--label", help="of the row (default: the config's name)")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/student"))
    args = parser.parse_args()
    label = args.label or Path(args.config).stem
    source, folder = args.work / label, args.work / f"{label}-student{args.student}"
    distseg.run(args.config, args.overrides, out=source)
    record = distseg.export_student(source, args.set, out=folder, encoder=args.student)
    print(table(record))
    (student,) = load_config(Run(folder).model / "config.yaml").members.values()
    table_json = args.out.with_suffix(".json")
    known = read_json_or(table_json, {})
    shown = ["WORK" if word == str(args.work) else word for word in sys.argv[1:]]
    known[f"{label} {args.student}".strip()] = {
        "label": label,
        "what": f"{student.arch}, {student.encoder}",
        "command": f"python benchmarks/student.py {shlex.join(shown)}",
        "student": record["facts"]["student"],
        "test": on_test(source, Run(folder).model),
    }
    write_json(table_json, known)
    rows = "\n".join(map(row_of, known.values()))
    commands = "\n".join(f"    {one['command']}" for one in known.values())
    atomic_write(args.out.with_suffix(".md"), f"{HEAD}{rows}\n\n{commands}\n")
    print(json.dumps(known[f"{label} {args.student}".strip()]["test"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
