"""Out-of-fold prediction: a member on the rows of its own fold, which it never trained on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distseg.config.schema import Config
from distseg.functional.metrics import summarize
from distseg.inference.evaluate import Evaluator
from distseg.inference.load import load_snapshot_model
from distseg.records.files import write_json
from distseg.records.manifest import Manifest
from distseg.records.paths import MemberPaths
from distseg.records.predictions import PredictionsWriter, merge


@torch.inference_mode()
def predict_out_of_fold(
    config: Config,
    paths: MemberPaths,
    evaluator: Evaluator,
    manifest: Manifest,
    rows: Sequence[int],
    snapshots: Sequence[dict[str, Any]],
    *,
    each: bool,
    heads: bool = False,
) -> float | None:
    """All ranks. Write oof/ (snapshots averaged as logits, with TTA) and oof_scores.json; with
    `each`, where there are several snapshots, oof_snapshots/ too, with the logits of each.

    The counts in oof_scores.json are taken at logit 0, for each snapshot and for their mean, with
    and without TTA. heads: it holds the logits of the snapshots' image heads, too. Returns the
    score of the mean with TTA; None without rows to validate.
    """
    accelerator = evaluator.accelerator
    ids = [manifest[row].id for row in rows]
    stems = [Path(snapshot["file"]).stem for snapshot in snapshots]
    kept = {"mean": paths.oof}
    if each and len(stems) > 1:
        kept |= {stem: paths.oof_snapshots / stem for stem in stems}
    rank_folders = [paths.folder / f"oof_part{r}" for r in range(accelerator.num_processes)]
    own = rank_folders[accelerator.process_index]
    counts, image_logits = _predict_share(
        config, paths, evaluator, ids, snapshots, own, list(kept), heads
    )
    accelerator.wait_for_everyone()  # all ranks have written before one joins
    if accelerator.is_main_process:
        for name, folder in kept.items():
            merge([own / name for own in rank_folders], folder, ids)
        for own in rank_folders:
            shutil.rmtree(own)
        variants = {key: table.tolist() for key, table in counts.items()}
        said = {"heads": image_logits} if heads else {}
        write_json(paths.oof_scores, {"ids": ids, "variants": variants, **said})
    if not ids:
        return None
    return float(summarize(counts["mean_tta"], config.metric)["score"])


def _predict_share(
    config: Config,
    paths: MemberPaths,
    evaluator: Evaluator,
    ids: Sequence[str],
    snapshots: Sequence[dict[str, Any]],
    folder: Path,
    kept: Sequence[str],
    heads: bool,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All ranks: this rank's logits with TTA into `folder`, for each name of `kept`. Returns the
    counts of all ranks by variant, int64 (N, C, 3): `mean_tta`, `mean_plain`, and the same for the
    file name of each snapshot; and with `heads` the logits of the image heads by that name, N lists
    of C numbers."""
    files = [paths.snapshots / snapshot["file"] for snapshot in snapshots]
    device, channels_last = evaluator.accelerator.device, config.compute.channels_last
    predictor = evaluator.predictor(
        [load_snapshot_model(file, device, channels_last)[0] for file in files]
    )
    stems = [file.stem for file in files]
    # the mean of one snapshot is that snapshot, and without views the image is seen once
    names = ["mean", *(stems if len(files) > 1 else [])]
    kinds: dict[str, Sequence[str]] = {"tta": config.predict.tta}
    if config.predict.tta:
        kinds["plain"] = []
    tables = {
        f"{name}_{kind}": evaluator.empty_counts(config.num_outputs)
        for name in names
        for kind in kinds
    }
    writers = {name: PredictionsWriter(folder / name) for name in kept}
    head_table = torch.zeros((len(files), len(ids), config.num_outputs), device=device)
    for positions, canvas, sizes in evaluator.stream("out of fold"):
        index = torch.tensor(positions, device=device)
        if heads:
            head_table[:, index] = predictor.image_logits(canvas)
        for kind, tta in kinds.items():
            logits_MBCHW = predictor.canvas_logits(canvas, tta)
            variants = [logits_MBCHW.mean(0), *(logits_MBCHW if len(files) > 1 else [])]
            for name, logits_BCHW in zip(names, variants, strict=True):
                natives = predictor.native(logits_BCHW, sizes)
                tables[f"{name}_{kind}"][index] = evaluator.count(natives, positions)
                if kind == "tta" and name in writers:
                    for position, native in zip(positions, natives, strict=True):
                        writers[name].add(ids[position], native.cpu().numpy())
    for writer in writers.values():
        writer.close()
    found = {key: evaluator.gather(table) for key, table in tables.items()}
    counts = {
        f"{name}_{kind}": found[
            f"{name if name in names else 'mean'}_{kind if kind in kinds else 'tta'}"
        ]
        for name in ("mean", *stems)
        for kind in ("tta", "plain")
    }
    said = evaluator.gather(head_table).round(4).tolist() if heads else []
    return counts, dict(zip(stems, said, strict=False))
