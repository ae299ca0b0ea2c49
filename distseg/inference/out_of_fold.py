"""Out-of-fold prediction: a member on the rows of its own fold, which it never trained on."""

from __future__ import annotations

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
) -> float | None:
    """All ranks. Write oof/ (snapshots averaged as logits, with TTA) and oof_scores.json.

    The counts in oof_scores.json are taken at logit 0, for each snapshot and for their mean, with
    and without TTA. Returns the score of the mean with TTA; None without rows to validate.
    """
    accelerator = evaluator.accelerator
    ids = [manifest[row].id for row in rows]
    rank_folders = [paths.folder / f"oof_part{r}" for r in range(accelerator.num_processes)]
    own = rank_folders[accelerator.process_index]
    counts = _predict_share(config, paths, evaluator, ids, snapshots, own)
    accelerator.wait_for_everyone()  # all ranks have written before one joins
    if accelerator.is_main_process:
        merge(rank_folders, paths.oof, ids)
        variants = {key: table.tolist() for key, table in counts.items()}
        write_json(paths.oof_scores, {"ids": ids, "variants": variants})
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
) -> dict[str, np.ndarray]:
    """All ranks: this rank's logits into `folder`, and the counts of all ranks by variant, int64
    (N, C, 3): `mean_tta`, `mean_plain`, and the same for the file name of each snapshot."""
    files = [paths.snapshots / snapshot["file"] for snapshot in snapshots]
    device, channels_last = evaluator.accelerator.device, config.compute.channels_last
    predictor = evaluator.predictor(
        [load_snapshot_model(file, device, channels_last)[0] for file in files]
    )
    names = ["mean", *(file.stem for file in files)]
    kinds: dict[str, Sequence[str]] = {"tta": config.predict.tta, "plain": []}
    tables = {
        f"{name}_{kind}": evaluator.empty_counts(config.num_outputs)
        for name in names
        for kind in kinds
    }
    writer = PredictionsWriter(folder)
    for positions, canvas, sizes in evaluator.stream():
        index = torch.tensor(positions, device=device)
        for kind, tta in kinds.items():
            logits_MBCHW = predictor.canvas_logits(canvas, tta)
            variants = [logits_MBCHW.mean(0), *logits_MBCHW]
            for name, logits_BCHW in zip(names, variants, strict=True):
                natives = predictor.native(logits_BCHW, sizes)
                tables[f"{name}_{kind}"][index] = evaluator.count(natives, positions)
                if (name, kind) == ("mean", "tta"):
                    for position, native in zip(positions, natives, strict=True):
                        writer.add(ids[position], native.cpu().numpy())
    writer.close()
    return {key: evaluator.gather(table) for key, table in tables.items()}
