"""Out-of-fold prediction: a member on the rows of its own fold, which it never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distseg.config.schema import Config
from distseg.functional.metrics import summarize
from distseg.inference.evaluate import Evaluator, native_logits, tta_logits
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
    accelerator, classes = evaluator.accelerator, config.num_outputs
    names = [Path(s["file"]).stem for s in snapshots]
    keys = [f"{n}_{kind}" for n in ["mean", *names] for kind in ("tta", "plain")]
    tables = {key: evaluator.empty_counts(classes) for key in keys}
    files = [paths.snapshots / s["file"] for s in snapshots]
    last = config.compute.channels_last
    models = [load_snapshot_model(f, accelerator.device, last)[0] for f in files]
    part = paths.folder / f"oof_part{accelerator.process_index}"
    writer = PredictionsWriter(part)
    for positions, images, sizes in evaluator.stream():
        views: dict[str, list[Tensor]] = {
            "tta": tta_logits(
                models, images, config.predict.tta, accelerator.autocast, evaluator.fit
            ),
            "plain": tta_logits(models, images, [], accelerator.autocast, evaluator.fit),
        }
        index = torch.tensor(positions, device=accelerator.device)
        for kind, logits in views.items():
            mean = torch.stack(logits).mean(0)
            for name, one in zip(["mean", *names], [mean, *logits], strict=True):
                counts = evaluator.counts_of_batch(one, positions, sizes)
                tables[f"{name}_{kind}"][index] = counts
            if kind == "tta":
                natives = native_logits(mean, evaluator.fit, sizes)
                for position, native in zip(positions, natives, strict=True):
                    writer.add(manifest[rows[position]].id, native.cpu().numpy())
    writer.close()
    gathered = {key: evaluator.gather(table) for key, table in tables.items()}
    accelerator.wait_for_everyone()
    ids = [manifest[row].id for row in rows]
    if accelerator.is_main_process:
        parts = [paths.folder / f"oof_part{r}" for r in range(accelerator.num_processes)]
        merge(parts, paths.oof, ids)
        variants = {key: counts.tolist() for key, counts in gathered.items()}
        write_json(paths.folder / "oof_scores.json", {"ids": ids, "variants": variants})
    if not ids:
        return None
    return float(summarize(gathered["mean_tta"], config.metric)["score"])
