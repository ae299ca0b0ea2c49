"""Finished runs side by side: scores on the images that they share, and where they differ.

The first run is what the others are compared with. Differences are paired: each drawn set of images
counts for both runs, so that what an image adds to both cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.load import flat_keys
from distseg.config.schema import Config
from distseg.functional.bootstrap import paired_difference
from distseg.functional.metrics import per_image, summarize
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, write_json
from distseg.records.paths import ALL_ROUNDS
from distseg.report.page import environment, scatter
from distseg.report.pictures import Compared, comparison_pictures

MOST_IMAGES = 12  # in each direction
# They change no number; the rounding of feature maps is none.
QUIET_KEYS = ("name", "compute.", "data.cache_dir", "data.feature_cache_gb")


def compare(runs: Sequence[Compared]) -> dict[str, Any]:
    """What compare.json holds: the runs, a pair for each run but the first, and the config's keys
    that differ. UserError: other tasks or classes, or no image in common."""
    first = runs[0]
    for other in runs[1:]:
        for key in ("task", "classes"):
            own, its = getattr(first.config, key), getattr(other.config, key)
            if own != its:
                raise UserError(f"{other.label}: {key}: {its}, but {first.label} has {own}")
    metric, counts = first.config.metric, [one.counts() for one in runs]
    return {
        "metric": metric,
        "runs": [_run_record(one, found) for one, found in zip(runs, counts, strict=True)],
        "pairs": [
            _pair(first, other, counts[0], found, metric)
            for other, found in zip(runs[1:], counts[1:], strict=True)
        ],
        "config": config_differences([one.config for one in runs]),
    }


def _run_record(one: Compared, counts: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
    final = one.ensemble["scores"]["final"]
    return {
        "label": one.label,
        "metric": one.config.metric,
        "score": final["score"],
        "standard_error": final["standard_error"],
        "flag": one.ensemble["flag"],
        "images": len(counts),
        "positives": final["positives"],
        "negatives": final["negatives"],
        "per_class": dict(zip(one.config.classes, final["per_class"], strict=True)),
        "members": {
            name: member["tta"] for name, member in one.ensemble["scores"]["members"].items()
        },
        "rounds": len(one.config.rounds),
    }


def reported_run(label: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """A run as compare.json has it, from its report.json alone."""
    final, members = report["scores"]["final"], report["scores"]["members"]
    return {
        "label": label,
        **{key: report[key] for key in ("metric", "score", "standard_error", "flag")},
        "images": final["num_images"],
        **{key: final[key] for key in ("positives", "negatives")},
        "per_class": dict(zip(report["classes"], final["per_class"], strict=True)),
        "members": {name: member["tta"] for name, member in members.items()},
        "rounds": sum(one["round"] != ALL_ROUNDS for one in report["rounds"]),
    }


def run_cells(one: Mapping[str, Any], metric: str) -> tuple[str, str, str, str, str]:
    """What a line of a table of scores says of a run: its label, score, standard error, images, and
    what the score is; with its metric, where that is not `metric`."""
    flag = f"{one['flag']} ({one['metric']})" if one["metric"] != metric else str(one["flag"])
    error = one["standard_error"]
    return (
        one["label"], f"{one['score']:.4f}", "–" if error is None else f"{error:.4f}",
        f"{one['images']:,}", flag,
    )  # fmt: skip


def _pair(
    first: Compared, other: Compared, before: Mapping[str, NDArray[np.int64]],
    now: Mapping[str, NDArray[np.int64]], metric: str,
) -> dict[str, Any]:  # fmt: skip
    """The images of both runs whose truth is one, and what they say."""
    both = [name for name in before if name in now]
    same = [name for name in both if np.array_equal(before[name][:, 2], now[name][:, 2])]
    if not same:
        raise UserError(
            f"{other.label}: no out-of-fold image in common with {first.label} "
            f"({len(both)} ids are, with other labels)"
        )
    tables = [np.stack([table[name] for name in same]) for table in (before, now)]
    scores = [per_image(table, metric).mean(axis=1) for table in tables]
    order = np.argsort(scores[1] - scores[0], kind="stable")
    images = [
        {"id": same[i], "before": float(scores[0][i]), "now": float(scores[1][i])} for i in order
    ]
    return {
        "label": other.label,
        "common": len(same),
        "only_first": len(before) - len(both),
        "only_other": len(now) - len(both),
        "other_truth": len(both) - len(same),
        "before": summarize(tables[0], metric)["score"],
        "now": summarize(tables[1], metric)["score"],
        **paired_difference(tables[1], tables[0], metric, seed=first.config.seed),
        "better": sum(one["now"] > one["before"] for one in images),
        "worse": sum(one["now"] < one["before"] for one in images),
        "lost": [one for one in images[:MOST_IMAGES] if one["now"] < one["before"]],
        "gained": [one for one in images[: -MOST_IMAGES - 1 : -1] if one["now"] > one["before"]],
        "points": [[round(one["before"], 4), round(one["now"], 4)] for one in images],
    }


def config_differences(configs: Sequence[Config]) -> dict[str, list[Any]]:
    """Dotted keys whose values differ, each with the values of all runs (None: it has no such
    key); those that change no number are left out."""
    trees = [flat_keys(config.model_dump(mode="json")) for config in configs]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    found = {key: [tree.get(key) for tree in trees] for key in keys}
    return {
        key: values
        for key, values in found.items()
        if any(value != values[0] for value in values) and not key.startswith(QUIET_KEYS)
    }


def verdict_of(pair: Mapping[str, Any], first: str) -> str:
    """What a pair comes to, in one sentence."""
    difference, low, high = pair["difference"], pair["low"], pair["high"]
    if low <= 0 <= high:
        return f"{pair['label']} and {first} cannot be told apart on {pair['common']} images"
    word = "better" if difference > 0 else "worse"
    return f"{pair['label']} is {word} than {first}"


def text(record: Mapping[str, Any]) -> str:
    """The table that `distseg compare` prints."""
    metric, first = record["metric"], record["runs"][0]["label"]
    width = max(len("run"), *(len(one["label"]) for one in record["runs"]))
    lines = [f"{'run':<{width}}  {metric:>8}        ±   images  score is"]
    lines += [
        f"{label:<{width}}  {score:>8} {error:>8} {images:>8}  {flag}"
        for label, score, error, images, flag in (run_cells(o, metric) for o in record["runs"])
    ]
    for pair in record["pairs"]:
        lines += [
            "",
            f"{pair['label']} against {first}, on the {pair['common']:,} images of both: "
            f"{pair['before']:.4f} -> {pair['now']:.4f}",
            f"  difference {pair['difference']:+.4f} ± {pair['standard_error']:.4f}, 95 % within "
            f"{pair['low']:+.4f} .. {pair['high']:+.4f}: {verdict_of(pair, first)}",
            f"  better on {pair['better']:,} images, worse on {pair['worse']:,}, equal on "
            f"{pair['common'] - pair['better'] - pair['worse']:,}",
        ]
        lines += [f"  left out: {note}" for note in _left_out(pair, first)]
        for title, key in (("lost most", "lost"), ("gained most", "gained")):
            shown = [f"{i['id']} {i['before']:.2f} -> {i['now']:.2f}" for i in pair[key][:4]]
            lines += [f"  {title}: {', '.join(shown)}"] if shown else []
    if record["config"]:
        lines += ["", "what differs in the config:"]
        lines += [
            f"  {key}: {' | '.join(map(str, values))}" for key, values in record["config"].items()
        ]
    return "\n".join(lines)


def _left_out(pair: Mapping[str, Any], first: str) -> list[str]:
    notes = [
        (pair["only_first"], f"only in {first}"),
        (pair["only_other"], f"only in {pair['label']}"),
        (pair["other_truth"], "in both, with other labels"),
    ]
    return [f"{count:,} images {what}" for count, what in notes if count]


def write_comparison(runs: Sequence[Compared], record: Mapping[str, Any], folder: Path) -> None:
    """compare.json and compare.html, a page of one file, into `folder`."""
    first = record["runs"][0]["label"]
    shown = []
    for pair, other in zip(record["pairs"], runs[1:], strict=True):
        try:
            pictures, problem = comparison_pictures(runs[0], other, pair), ""
        except UserError as error:  # such as out-of-fold logits that were removed to save disk
            pictures, problem = [], str(error)
        shown.append(
            {
                **pair,
                "verdict": verdict_of(pair, first),
                "left_out": _left_out(pair, first),
                "chart": scatter(pair["points"]),
                "pictures": pictures,
                "problem": problem,
            }
        )
    page = environment().get_template("compare.html").render(r=record, pairs=shown, first=first)
    write_json(folder / "compare.json", record)
    atomic_write(folder / "compare.html", page)
