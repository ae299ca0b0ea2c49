"""What selection rules find of planted label faults, and what filtering does to the scores.

    python benchmarks/label_noise.py --shares 0.15 --out benchmarks/results/label_noise_synthetic
    python benchmarks/label_noise.py --data tgs --root data/tgs --shares 0.1 --out ...

Train masks are emptied, shifted by a third, or replaced by a rectangle, in equal parts. For each
share of faulty masks one table says, for each rule, with which precision and recall it finds them
(by strict pair teachers), and another what a round of filtering does to the out-of-fold score,
which is taken on the faulty labels, and to the score on test images with the truth: against
training on everything (round 0) and against knowing all true masks. `--teachers` adds the ways
that leak, `--published` the rule as it was published.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from distseg.config.load import parse_config
from distseg.data.formats.synthetic import picture
from distseg.data.layouts import layout
from distseg.functional.rle import decode
from distseg.functional.rules import RULES, objections
from distseg.jobs.guard import die_with_parent
from distseg.records.files import read_json
from distseg.records.paths import Run
from distseg.rounds.teacher_predictions import TeacherPredictions

FAULTS = ("emptied", "shifted", "rectangle")
RULES_TRIED: dict[str, Any] = {
    "min_iou": 0.4, "min_dice": 0.4, "min_boundary": 0.1, "worst": 0.15, "worst_per_stratum": 0.15,
    "max_false_area": 0.03, "rectangle": True,
}  # fmt: skip
CHOSEN = {"min_iou": 0.4, "max_false_area": 0.03}
FOLDS = 3
Masks = list[tuple[str, np.ndarray, np.ndarray]]  # id, image, mask


def synthetic(num_train: int, num_test: int) -> tuple[Masks, Masks]:
    tree = {"name": "n", "data": {"format": "synthetic"}, "members": {"a": {}}}
    options = parse_config(tree, "n").data.synthetic
    made = []
    for i in range(num_train + num_test):
        image, mask = picture(np.random.default_rng([7, i]), options, 1, empty=i % 10 < 3)
        made.append((f"s{i:05d}", image, mask))
    return made[:num_train], made[num_train:]


def tgs(root: str, num_train: int, num_test: int) -> tuple[Masks, Masks]:
    """Labeled images of the competition, each once; its own labels stand for the truth."""
    tree = {"name": "n", "members": {"a": {}}, "data": {"format": "tgs", "root": root}}
    config = parse_config(tree, "n")
    rows = [row for row in layout("tgs").train(config) if not row.problem]
    order = np.random.default_rng(7).permutation(len(rows))
    made, seen = [], set()
    for place in order:
        row = rows[place]
        image = np.asarray(Image.open(row.image).convert("L"))
        if image.tobytes() in seen:
            continue  # a twin in another fold would be a leak
        seen.add(image.tobytes())
        kind, _, value = row.target.partition(":")
        mask = (
            decode(value, *image.shape)
            if kind == "rle"
            else (np.asarray(Image.open(value)) > 0).astype(np.uint8)
        )
        made.append((row.id, image, mask))
        if len(made) == num_train + num_test:
            break
    return made[:num_train], made[num_train:]


def plant(train: Masks, share: float) -> tuple[Masks, dict[str, str]]:
    """Faults in a share of the masks that have an object: (new masks, fault by id)."""
    rng = np.random.default_rng(11)
    full = [i for i, (_, _, mask) in enumerate(train) if mask.any()]
    chosen = rng.permutation(full)[: round(share * len(train))]
    faults = {train[place][0]: FAULTS[n % 3] for n, place in enumerate(chosen)}
    changed = []
    for name, image, mask in train:
        new, (height, width) = mask, mask.shape
        if faults.get(name) == "emptied":
            new = np.zeros_like(mask)
        elif faults.get(name) == "shifted":
            new = np.roll(mask, (height // 3, width // 3), axis=(0, 1))
        elif faults.get(name) == "rectangle":
            new = np.zeros_like(mask)
            top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
            new[top : top + height // 3, left : left + width // 3] = 1
        changed.append((name, image, new))
    return changed, faults


def write_folder(root: Path, train: Masks, test: Masks) -> None:
    for part, masks, images in (("images", "masks", train), ("test_images", "test_masks", test)):
        (root / part).mkdir(parents=True)
        (root / masks).mkdir()
        for name, image, mask in images:
            Image.fromarray(image).save(root / part / f"{name}.png")
            Image.fromarray(mask * np.uint8(255)).save(root / masks / f"{name}.png")
    lines = [f"{name},{i % FOLDS}" for i, (name, _, _) in enumerate(train)]
    (root / "folds.csv").write_text("\n".join(["id,fold", *lines]) + "\n")


def experiment(root: Path, data: str, epochs: int, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    size = {"height": 64, "width": 64, "fit": "resize" if data == "tgs" else "pad", "channels": 1}
    return {
        "name": "noise",
        "data": {"format": "folder", "root": str(root),
                 "folds": {"kind": "file", "path": str(root / "folds.csv")},
                 "folder": {"test_masks": "test_masks"}},
        "input": size,
        "metric": "tgs" if data == "tgs" else "dice",
        "augment": [{"hflip": {"p": 0.5}}, {"affine": {"scale": [0.85, 1.2], "translate": 0.1}}],
        "members": {
            "unet": {
                "arch": "Unet", "encoder": "resnet18", "encoder_weights": None,
                "decoder": {"encoder_depth": 4, "decoder_channels": [64, 32, 16, 16]},
            }
        },
        "stages": [
            {
                "loss": {"bce": 1.0, "dice": 1.0},
                "optimizer": {"name": "adamw", "lr": 1.5e-3},
                "schedule": {"kind": "cosine", "epochs_per_cycle": epochs, "warmup_epochs": 1},
            }
        ],
        "rounds": rounds,
        "train": {"batch_size": 8, "evaluate_every": epochs},
        "predict": {"every_round": True},
        "compute": {"slots": FOLDS},  # a job a member: one thread each waits for no other
    }  # fmt: skip


def run(tree: dict[str, Any], folder: Path) -> Run:
    path = folder.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "distseg", "run", str(path), "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    return Run(folder)


def again(first: Run, folder: Path) -> Run:
    """A copy of a run's first round, to go on from with other teachers."""
    shutil.copytree(first.folder, folder, ignore=shutil.ignore_patterns("round_1", "round_all"))
    for name in ("config.yaml", "ensemble.json", "report.json"):
        (folder / name).unlink(missing_ok=True)
    return Run(folder)


def truth_score(masks: Path, root: Path, metric: str) -> float:
    command = [sys.executable, "-m", "distseg", "score", str(masks), str(root / "test_masks")]
    done = subprocess.run(
        [*command, "--metric", metric], check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout)["score"])


def scores(one: Run, root: Path, metric: str, number: int) -> dict[str, Any]:
    record = read_json(one.ensemble(number))
    final = record["scores"]["final"]
    masks = one.round(number) / "test_masks"
    masks = masks if masks.is_dir() else one.test_masks
    return {
        "flag": record["flag"],
        "out_of_fold": final["score"],
        "standard_error": final["standard_error"],
        "negatives": final["negatives"],
        "truth": truth_score(masks, root, metric),
    }


def detection(one: Run, faults: dict[str, str]) -> dict[str, Any]:
    """Precision and recall of each rule over the judgements for all students, and the recall of
    each kind of fault."""
    tables = [TeacherPredictions(one.taught(1, "labeled", f"fold{fold}")) for fold in range(FOLDS)]
    ids = [name for table in tables for name in table.ids]
    table = {key: np.concatenate([t.table[key] for t in tables]) for key in tables[0].table}
    planted = np.array([name in faults for name in ids])
    kinds = np.array([faults.get(name, "") for name in ids])
    found = {}
    tried = [(name, {name: value}) for name, value in RULES_TRIED.items() if name in RULES]
    for name, rules in [*tried, ("+".join(CHOSEN), CHOSEN)]:
        flagged = np.array([bool(r) for r in objections(table, rules, "keep")])
        hits = int((flagged & planted).sum())
        found[name] = {
            "value": rules.get(name, rules),
            "precision": hits / max(1, int(flagged.sum())),
            "recall": hits / max(1, int(planted.sum())),
            **{f"recall_{k}": float(flagged[kinds == k].mean()) for k in FAULTS},
        }
    return found


def study(args: argparse.Namespace, share: float, work: Path) -> dict[str, Any]:
    load = synthetic if args.data == "synthetic" else lambda *n: tgs(args.root, *n)
    train, test = load(args.train, args.test)
    faulty, faults = plant(train, share)
    write_folder(work / "faulty", faulty, test)
    metric = "tgs" if args.data == "tgs" else "dice"
    rule = {"kind": "self_distill", "rules": CHOSEN}

    def tree(root: str, *rounds: dict[str, Any]) -> dict[str, Any]:
        listed = [{"kind": "supervised"}, *rounds]
        return experiment(work / root, args.data, args.epochs, listed)

    first = run(tree("faulty", {**rule, "teacher": "pair"}), work / "pair")
    root = work / "faulty"
    record = {
        "share": share,
        "faults": len(faults),
        "rules": detection(first, faults),
        "scores": {
            "everything": scores(first, root, metric, 0),
            "filtered, pair": scores(first, root, metric, 1),
        },
    }
    for teacher in args.teachers:
        copy = again(first, work / teacher)
        run(tree("faulty", {**rule, "teacher": teacher}), copy.folder)
        record["scores"][f"filtered, {teacher}"] = scores(copy, root, metric, 1)
    if args.published:
        copy = again(first, work / "published")
        published = {"kind": "self_distill", "rules": {"min_iou": 0.4}, "empty": "drop"}
        run(tree("faulty", {**published, "teacher": "all"}), copy.folder)
        record["scores"]["published rule"] = scores(copy, root, metric, 1)
    write_folder(work / "clean", train, test)
    clean = run(tree("clean"), work / "knowing")
    record["scores"]["knowing the truth"] = scores(clean, work / "clean", metric, 0)
    return record


def text(record: dict[str, Any]) -> str:
    lines = [f"share {record['share']}: {record['faults']} faulty masks"]
    lines.append(f"{'rule':<28} precision  recall  {'  '.join(f'{k:>9}' for k in FAULTS)}")
    for name, row in record["rules"].items():
        each = "  ".join(f"{row[f'recall_{k}']:9.3f}" for k in FAULTS)
        lines.append(f"{name:<28} {row['precision']:9.3f} {row['recall']:7.3f}  {each}")
    lines.append(f"{'trained on':<28} out of fold        empties  truth")
    for name, row in record["scores"].items():
        error = row["standard_error"]
        lines.append(
            f"{name:<28} {row['out_of_fold']:.4f} ± {error:.4f}   {row['negatives']:.4f}"
            f"   {row['truth']:.4f}  {row['flag']}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", choices=["synthetic", "tgs"], default="synthetic")
    parser.add_argument("--root", default="data/tgs", help="folder of the TGS files")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--teachers", nargs="*", default=[], choices=["oof", "all"])
    parser.add_argument("--published", action="store_true", help="the published rule beside ours")
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=150)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--work", type=Path, default=Path("runs/label_noise"))
    parser.add_argument("--out", type=Path, help="a .json file")
    args = parser.parse_args()
    records = []
    for share in args.shares:
        work = args.work / f"{args.data}_{share}"
        shutil.rmtree(work, ignore_errors=True)
        records.append(study(args, share, work))
        print(text(records[-1]), flush=True)
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
