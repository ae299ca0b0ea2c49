"""The student of an ensemble as a folder that predicts, and what it keeps and costs beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distseg import __version__
from distseg.config.rounds import RoundConfig
from distseg.config.schema import Config
from distseg.data.dataset import ImagePixels
from distseg.distributed import OneProcess, one_process
from distseg.export.ensemble_folder import fill_ensemble_folder
from distseg.export.export import real_images
from distseg.export.facts import facts_of, write_card
from distseg.inference.predict import LoadedEnsemble, logit_batches, open_ensemble
from distseg.records.files import atomic_write, whole_folder, write_json
from distseg.records.paths import Run

REPEATS = 5  # of the timing, after one pass that does not count


def export_student(
    source: Path, folder: Path, name: str, pair: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the student of a run into the folder `Run(folder).model`: one network, that of the
    first fold, with the rules that were tuned on all.

    Args:
        source: the run, or exported folder, of the ensemble.
        folder: the student's run, finished.
        name: the student's, among the models of that run.
        pair: what `report.compare` finds of the ensemble and the student, the scores that are kept.

    Returns:
        What export.json holds; facts.student is what the card and `table` tell.

    Raises:
        UserError: no image can be read, or a snapshot is missing or damaged.
    """
    run, config, ensemble = open_ensemble(folder)
    one = min((m for m in ensemble["members"] if m["weight"]), key=lambda m: int(m["fold"]))
    alone = {**ensemble, "members": [one]}
    teacher_run, teacher_config, teachers = open_ensemble(source)
    sides = [(teacher_run, teacher_config, teachers), (run, config, alone)]
    process = one_process(config)
    costs = measure_costs(sides, real_images(run, config), process)
    keys = ("common", "before", "now", "difference", "standard_error", "low", "high")
    told = {
        "of": teacher_config.name,
        "fold": one["fold"],
        "folds": sorted(m["fold"] for m in ensemble["members"]),
        "score": {key: pair[key] for key in keys},
        "share": pair["now"] / pair["before"] if pair["before"] else None,
        "ensemble": costs[0],
        "student": costs[1],
        "device": _device_name(process),
    }
    told |= {"lines": _lines(config.metric, told), "sentence": _sentence(ensemble["flag"], pair)}
    own: dict[str, Any] = {"input": config.input_of(name)}
    facts = {**facts_of(run, config.model_copy(update=own), alone), "student": told}
    record = {"distseg": __version__, "format": "ensemble", "facts": facts}
    own |= {"members": {name: config.members[name].model_copy(update={"folds": None})}}
    own |= {"rounds": [RoundConfig()]}
    with whole_folder(run.model) as temporary:
        fill_ensemble_folder(run, config.model_copy(update=own), alone, [one], temporary)
        atomic_write(temporary / "README.md", write_card(facts, "ensemble"))
        write_json(Run(temporary).exported, record)
    return record


def measure_costs(
    sides: Sequence[tuple[Run, Config, dict[str, Any]]], images: Sequence[NDArray[np.uint8]],
    process: OneProcess,
) -> list[dict[str, Any]]:  # fmt: skip
    """What each of several ensembles costs on this machine: networks, parameters, bytes of weights,
    and milliseconds from an image's pixels to its logits, with all views, the median of REPEATS
    passes over `images` that take turns."""
    rows = [ImagePixels(str(i), im, im.shape[0], im.shape[1]) for i, im in enumerate(images)]
    loaded, found = [], []
    seconds: list[list[float]] = [[] for _ in sides]
    for run, config, record in sides:
        ensemble = LoadedEnsemble.load(config, run.folder, record, process)
        networks = [model for one in ensemble.predictors for model in one.models]
        snapshots = [s for m in record["members"] if m["weight"] > 0 for s in m["snapshots"]]
        found.append(
            {
                "networks": len(networks),
                "parameters": sum(p.numel() for net in networks for p in net.parameters()),
                "bytes": sum((run.folder / path).stat().st_size for path in snapshots),
            }
        )
        alone = config.compute.model_copy(update={"workers": 0})  # no time to start processes
        loaded.append((ensemble, config.model_copy(update={"compute": alone})))
    for repeat in range(REPEATS + 1):
        for (ensemble, config), own in zip(loaded, seconds, strict=True):
            began = time.perf_counter()
            for _ in logit_batches(ensemble, config, rows, process):
                pass  # the logits are on the CPU by then: nothing is left to wait for
            if repeat:
                own.append(time.perf_counter() - began)
    for one, own in zip(found, seconds, strict=True):
        one["ms_per_image"] = round(1000 * statistics.median(own) / len(rows), 3)
    return found


def table(record: Mapping[str, Any]) -> str:
    """What `distseg export --student` prints: what the student keeps, and what it costs."""
    told = record["facts"]["student"]
    lines = [("", "ensemble", "student", "student / ensemble"), *told["lines"]]
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    rows = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]
    return "\n".join([*rows, told["sentence"]])


def _lines(metric: str, told: Mapping[str, Any]) -> list[list[str]]:
    """A row for each of: the score, networks, parameters, time, size; each with the share."""
    score, before, now = told["score"], told["ensemble"], told["student"]
    share = "-" if told["share"] is None else f"{100 * told['share']:.1f} %"
    lines = [[f"{metric}, out of fold", f"{score['before']:.4f}", f"{score['now']:.4f}", share]]
    for label, key, scale, digits in (
        ("networks", "networks", 1, 0),
        ("million parameters", "parameters", 1e6, 2),
        (f"ms an image ({told['device']})", "ms_per_image", 1, 1),
        ("MB of weights", "bytes", 1e6, 1),
    ):
        cells = [f"{one[key] / scale:,.{digits}f}" for one in (before, now)]
        lines.append([label, *cells, f"{100 * now[key] / before[key]:.1f} %"])
    return lines


def _sentence(flag: str, score: Mapping[str, Any]) -> str:
    return (
        f"difference {score['difference']:+.4f} ± {score['standard_error']:.4f} on the same "
        f"{score['common']:,} images, 95 % within {score['low']:+.4f} .. {score['high']:+.4f}; "
        f"the student's score is {flag}"
    )


def _device_name(process: OneProcess) -> str:
    if process.device.type == "cuda":
        return str(torch.cuda.get_device_name(process.device))
    return f"CPU, {torch.get_num_threads()} threads"
