"""What a run is known to be, for the card that travels with its models."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from distseg import __version__
from distseg.config.schema import Config
from distseg.functional.combine import sigmoid
from distseg.records.files import read_json, read_json_or
from distseg.records.manifest import Manifest
from distseg.records.paths import Run, split_snapshot_id

MEANING = {
    "honest": "each image was scored by members that had seen neither its label nor a label made "
    "by a model that had; thresholds, areas and weights were tuned on the other folds",
    "indirect": "labels of a fold have reached its own models through a judgement (which rows to "
    "train on, or which weights to keep), so the score may be somewhat too high",
    "leaky": "labels of a fold have reached its own models through their teachers: the score is "
    "too high",
}


def facts_of(run: Run, config: Config, ensemble: dict[str, Any]) -> dict[str, Any]:
    """Plain JSON values: data, score, members, rule, input, versions. Of a folder that was
    exported, those that its own export.json brought along."""
    if run.exported.is_file():
        known: dict[str, Any] = read_json(run.exported, "facts")["facts"]
        return known
    final = ensemble["scores"]["final"]
    return {
        "name": config.name,
        "task": config.task,
        "classes": config.classes,
        "metric": config.metric,
        "score": final["score"],
        "standard_error": final["standard_error"],
        "per_class": final["per_class"],
        "images": final["num_images"],
        "flag": ensemble["flag"],
        "default_score": ensemble["scores"]["nested"]["default"],
        "rounds": [one.kind for one in config.rounds],
        "data": _data(run, config),
        "members": _members(config, ensemble),
        "space": ensemble["space"],
        "tta": ensemble["tta"],
        "rule": ensemble["rule"],
        "input": config.input.model_dump(mode="json"),
        "versions": _versions(run),
    }


def _data(run: Run, config: Config) -> dict[str, Any]:
    """Counts and sizes of the train set; nothing that names a file or a folder."""
    path = run.data / "statistics.json"
    found: dict[str, Any] = read_json_or(path, {})
    for key in ("key", "digests"):
        found.pop(key, None)
    manifest = Manifest.read(run.truth)
    sizes = Counter(f"{s.height} x {s.width}" for s in manifest)
    return {
        "layout": config.data.format,
        **found,
        "sizes": dict(sizes.most_common(3)),
        "num_sizes": len(sizes),
        "folds": config.data.folds.kind,
        "num_folds": len(manifest.folds),
    }


def _members(config: Config, ensemble: dict[str, Any]) -> list[dict[str, Any]]:
    """The models of the ensemble: what they are, on how many folds, what they score alone."""
    found = []
    for name, weight in ensemble["weights"].items():
        own = [member for member in ensemble["members"] if member["name"] == name]
        if not own:
            continue
        model_name, place = split_snapshot_id(name)
        alone = ensemble["scores"]["members"][model_name]
        if place is not None:
            alone = alone["snapshots"][place]
        model = config.members[model_name.partition("@")[0]]  # of all rounds together: NAME@ROUND
        found.append(
            {
                "name": name,
                "arch": model.arch,
                "encoder": model.encoder,
                "weights": _weights_name(model.encoder_weights),
                "folds": [member["fold"] for member in own],
                "snapshots": len(own[0]["snapshots"]),
                "weight": weight,
                "score": alone["tta"],
                "score_plain": alone["plain"],
            }
        )
    return found


def _weights_name(weights: str | None) -> str | None:
    """The name of encoder weights, without the folder that they lay in."""
    return None if weights is None else Path(weights).name


def _versions(run: Run) -> dict[str, str]:
    packages = read_json_or(run.env, {}).get("packages", {})
    names = ("torch", "timm", "segmentation-models-pytorch")
    return {"distseg": __version__} | {n: packages[n] for n in names if packages.get(n)}


def write_card(facts: dict[str, Any], kind: str) -> str:
    """README.md of an exported folder, as Markdown with the head that model hubs read.

    kind: ensemble, smp, onnx or torch.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("distseg", "export"), undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, autoescape=False,  # Markdown, no page
    )  # fmt: skip
    environment.filters |= {
        "score": lambda value: "–" if value is None else f"{value:.4f}",
        "prob": lambda logit: f"{float(sigmoid(np.array([logit]))[0]):.3f}",
    }
    template = environment.get_template("card.md")
    return template.render(f=facts, kind=kind, meaning=MEANING[facts["flag"]])
