"""report.html: one file without a request, of what report.json and the measured images hold."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from distseg.config.schema import Config
from distseg.functional.drawing import class_rgb
from distseg.records.errors import UserError
from distseg.records.files import read_lines
from distseg.records.paths import Run
from distseg.report.charts import calibration_chart, curve_chart, gantt, rule_charts
from distseg.report.images import Measured, ScoredOf
from distseg.report.intervals import gain_charts, score_chart
from distseg.report.page import environment, plain
from distseg.report.pictures import pictures, selection_sheets

SCRIPT = Path(__file__).with_name("report.js")
GIB = 1 << 30


def render(
    config: Config, run: Run, record: Mapping[str, Any], scored_of: ScoredOf, measured: Measured,
    epochs: Mapping[str, Any], problem: str, test_pictures: Sequence[Mapping[str, Any]],
) -> str:  # fmt: skip
    """The page: values are escaped by the template; pictures, curves and the script are inline, and
    the page's policy lets that one script run and nothing else."""
    script = SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    try:
        shown = pictures(config, run, record, scored_of) if not problem else []
    except UserError as error:
        shown, problem = [], str(error)
    colors = class_colors(config)
    titles = (("loss", "loss"), ("score", config.metric), ("lr", "learning rate"))
    images = record["images"] or {"looked": 0}
    calibration = calibration_chart(images["calibration"]) if images["looked"] else None
    return environment().get_template("report.html").render(
        r=record,
        charts=[curve_chart(epochs, key, title) for key, title in titles],
        gains=gain_charts(record["gains"]),
        groups=group_charts(record),
        rules=rule_charts(images.get("rules", [])),
        sheets=selection_sheets(config, run),
        test_pictures=test_pictures,
        changed=changed_keys(config),
        pictures=shown,
        problem=problem,
        gantt=gantt(read_lines(run.ledger)),
        calibration=calibration,
        confusion=confusion_rows(config, measured),
        colors=dict(zip(config.classes, colors, strict=True)),
        data_facts=data_facts(config, record),
        machine_facts=machine_facts(record["hardware"]),
        doubted=doubted_from(config),
        page_data=page_data(config, measured, colors),
        script=Markup(script),
        digest=digest,
    )  # fmt: skip


def group_charts(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores by what images hold; a chart of a single group says nothing."""
    images, by_class = record["images"] or {}, record["by_class"]
    means = [row["score"] * row["num_images"] for row in images.get("by_size", [])]
    total = sum(row["num_images"] for row in images.get("by_size", []))
    mean = sum(means) / total if total else None
    charts = [
        ("by the size of what an image holds", images.get("by_size", []), mean),
        ("by the number of objects", images.get("by_number", []), mean),
        ("by class", by_class, record["score"]),
    ]
    return [score_chart(title, rows, line) for title, rows, line in charts if len(rows) > 1]


def changed_keys(config: Config) -> list[tuple[str, str]]:
    """Keys of the config that are not at their default, and their values, lists in one line."""
    tree = config.model_dump(mode="json", exclude_defaults=True)
    return [(key, plain(value) or "all as by default") for key, value in _leaves(tree, "")]


def _leaves(tree: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, list) and any(isinstance(one, Mapping) for one in tree):
        tree = {str(place): one for place, one in enumerate(tree)}
    if not isinstance(tree, Mapping) or not tree:
        yield key, tree
        return
    for name, value in tree.items():
        yield from _leaves(value, f"{key}.{name}" if key else str(name))


def page_data(config: Config, measured: Measured, colors: Sequence[Sequence[int]]) -> Markup:
    """What the script reads, as JSON that no `<` can leave."""
    found = {
        "rows": measured.rows,
        "pictures": measured.pictures,
        "colors": colors,
        "multiclass": config.task == "multiclass",
        "doubted": doubted_from(config),
    }
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=True)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


def doubted_from(config: Config) -> float:
    """The share of `agreement.label_doubt` from which a label is suspected: a fifth of an object's
    pixels; of all pixels, which multiclass counts, a fiftieth."""
    return 0.02 if config.task == "multiclass" else 0.2


def class_colors(config: Config) -> list[list[int]]:
    """An RGB color for each class, 0..255, as in all pictures; the background of multiclass is
    gray."""
    found = []
    for number in range(config.num_outputs):
        if config.task == "multiclass" and number == 0:
            found.append([110, 110, 110])
            continue
        found.append(list(class_rgb(number - (config.task == "multiclass"))))
    return found


def confusion_rows(config: Config, measured: Measured) -> list[dict[str, Any]]:
    """Multiclass: each class's truth as shares of the predicted classes; else each class's pixels:
    found, missed, too much."""
    if not measured.looked:
        return []
    rows = []
    for name, counts in zip(config.classes, measured.confusion.tolist(), strict=True):
        if config.task == "multiclass":
            total = sum(counts)
            shares = [count / total if total else 0.0 for count in counts]
            rows.append({"name": name, "pixels": total, "shares": shares})
        else:
            right, missed, much, _ = counts
            truth, predicted = right + missed, right + much
            found = right / truth if truth else None
            exact = right / predicted if predicted else None
            rows.append({"name": name, "pixels": truth, "found": found, "exact": exact})
    return rows


def data_facts(config: Config, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the data holds, in the words of people."""
    data = record["data"]
    facts = [("training images", f"{data['train']:,}")]
    if "test" in data:
        facts.append(("test images", f"{data['test']:,}"))
    if "empty" in data:
        facts.append(("without an object", f"{100 * data['empty']:.1f} %"))
    if "coverage" in data and len(data["coverage"]) == len(config.classes):
        shares = [
            f"{100 * value:.1f} %" + (f" {name}" if len(config.classes) > 1 else "")
            for name, value in zip(config.classes, data["coverage"], strict=True)
        ]
        facts.append(("share of the pixels", ", ".join(shares)))
    for key, name in (
        ("constant", "images of a single value"),
        ("twins", "copies of other images"),
    ):
        facts += [(name, f"{data[key]:,}")] if data.get(key) else []
    folds = ", ".join(f"{count:,}" for count in data["folds"].values())
    facts.append((f"images of the {len(data['folds'])} folds", folds))
    sizes = ", ".join(f"{size.replace('x', ' x ')}: {n:,}" for size, n in data["sizes"].items())
    facts.append(("height x width", sizes))
    if data["quarantine"]:
        facts.append(("rows in quarantine", f"{data['quarantine']:,}"))
    return facts


def machine_facts(hardware: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the run was made, in the words of people."""
    facts = []
    if hardware.get("command"):
        command = [str(part) for part in hardware["command"]]
        facts.append(("command", " ".join(["distseg", *command[1:]])))
    if hardware.get("cpu"):
        facts.append(("processor", f"{hardware['cpu']}, {hardware.get('cores', '?')} cores"))
    if hardware.get("memory_bytes"):
        facts.append(("memory", f"{hardware['memory_bytes'] / GIB:.0f} GiB"))
    gpus = [str(gpu.get("name", gpu)) if isinstance(gpu, Mapping) else str(gpu)
            for gpu in hardware.get("gpus") or []]  # fmt: skip
    facts += [("GPUs", ", ".join(gpus))] if gpus else []
    versions = {"distseg": hardware.get("distseg"), "Python": hardware.get("python")}
    versions |= hardware.get("packages") or {}
    listed = [f"{name} {version}" for name, version in versions.items() if version]
    facts += [("versions", ", ".join(listed))] if listed else []
    facts += [("source", str(hardware["commit"]))] if hardware.get("commit") else []
    return facts
