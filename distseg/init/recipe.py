"""The config that a way to spend the budget becomes: its keys, and why each is so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distseg.init.budget import Spent, visible
from distseg.init.encoders import Encoder
from distseg.init.folds import groups_text
from distseg.init.look import Facts, merged
from distseg.init.sizes import Size
from distseg.records.log import counted, duration

LOSSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "binary": ({"bce": 1.0}, {"bce": 1.0, "lovasz": {"weight": 0.5, "activation": "elu"}}),
    "multilabel": ({"bce": 1.0}, {"bce": 1.0, "lovasz": {"weight": 0.5, "activation": "elu"}}),
    "multiclass": ({"cross_entropy": 1.0}, {"cross_entropy": 1.0, "lovasz_softmax": 0.5}),
}
METRICS = {"binary": "dice", "multilabel": "mean_dice", "multiclass": "miou"}
AUGMENT: list[dict[str, Any]] = [
    {"hflip": {"p": 0.5}},
    {"affine": {"scale": [0.85, 1.25], "translate": 0.1, "p": 0.6}},
    {"brightness_contrast": {"brightness": 0.15, "contrast": 0.2, "p": 0.5}},
]
PREDICTED = 1_500_000  # pixels that a batch of the prediction has on a CPU, and ten times on a GPU
HARDLY = 0.5  # share of an object that can be seen (`budget.visible`), below which it is said
MEASURED = {"train": ("mean", "std"), "median": ("mean",)}  # by input.normalize
Why = dict[str, str]


def recipe(
    facts: Facts, spent: Spent, encoder: Encoder, *, name: str, gpu: bool, slots: int,
    groups: Path,
) -> tuple[dict[str, Any], Why]:  # fmt: skip
    """(keys of the config in the order to write them, by dotted key why).

    slots: jobs at the same time. groups: the table of groups, where the names have them.
    """
    keys, why = facts.keys, dict(facts.why)
    task = facts.task
    tree: dict[str, Any] = {"name": name, "seed": 0, "task": task, "classes": keys["classes"]}
    if keys.get("void") is not None:
        tree["void"] = keys["void"]
    tree["data"] = merged(keys["data"], {"folds": _folds(facts, spent, groups, why)})
    tree["data"] = _ordered(tree["data"], ("format", "root"))
    if facts.deep is not None:
        low, high = facts.deep
        why["data.levels"] = (
            f"images have more than 8 bits (the sample holds {low:g} to {high:g}): null, the "
            "lowest and highest value of the train images become 0 and 255"
        )
        tree["data"].setdefault("levels", None)
    tree["input"] = _input(facts, spent.candidate.size, encoder, why)
    tree["metric"] = keys.get("metric", METRICS[task])
    tree["augment"] = AUGMENT
    why["augment"] = (
        "what holds for most images. Pictures without an up and down (aerial, microscope): add "
        "{vflip: {p: 0.5}} and {rot90: {p: 0.5}}; see docs/augment.md"
    )
    tree["members"] = _members(spent, encoder, why)
    tree["stages"] = _stages(task, spent, encoder, why)
    tree["train"] = _train(facts, spent, why)
    flipped = spent.candidate.tta
    tree["predict"] = {"tta": ["hflip"] if flipped else [],
                       "batch_size": predict_batch(facts, spent.candidate.size, gpu)}  # fmt: skip
    if not flipped:
        why["predict"] = (
            "no flipped views: predicting such images takes long, and training gains more from the "
            "time. tta: [hflip] helps where there is time"
        )
    search = spent.members * spent.snapshots > 2
    tree["ensemble"] = {"space": "logit", "weights": "search" if search else "uniform"}
    if task != "multiclass":
        tree["postprocess"] = {"threshold": "search", "min_area": "search"}
        why["postprocess"] = "cut points are found on out-of-fold predictions, and scored nested"
    tree["compute"] = _compute(spent, gpu, slots, why)
    return tree, why


def _ordered(tree: Mapping[str, Any], first: tuple[str, ...]) -> dict[str, Any]:
    return {**{key: tree[key] for key in first if key in tree}, **tree}


def _folds(facts: Facts, spent: Spent, groups: Path, why: Why) -> dict[str, Any]:
    """The keys of the division that was chosen, with all that the user has said of it."""
    folds, asked = spent.folds, facts.keys["data"].get("folds", {})
    told = counted(facts.num_train, "train image")
    found: dict[str, Any] = {"kind": folds.kind}
    if folds.kind == "split":
        why["data.folds"] = (
            f"the data set's own validation part ({facts.num_validated} of {told}) is kept: images "
            "of one video or patient are often nearly alike"
        )
    elif folds.kind == "holdout":
        found |= {"fraction": 0.2, "seed": 0}
        why["data.folds"] = (
            f"a hold-out of a fifth of {told}: in this budget few long trainings score more than "
            "many short ones"
        )
    elif folds.kind != "file":
        found |= {"num": folds.num, "seed": 0}
        why["data.folds"] = (
            f"{folds.num} folds of {told}: every image is scored by a model that never saw it"
        )
        if not folds.full:
            found["use"] = [0]
    if facts.groups is not None and folds.kind == "group" and "groups" not in asked:
        found |= {"column": "group", "groups": str(groups)}
        used = f"; {folds.used} of {folds.num} is trained: the budget" if not folds.full else ""
        why["data.folds"] = (
            f"{groups_text(facts.groups)}: what belongs together stays in one fold, or the score "
            f"would be too good{used}. Where the names mean something else: kind: stratified"
        )
    return {**found, **asked}


def _input(facts: Facts, size: Size, encoder: Encoder, why: Why) -> dict[str, Any]:
    found: dict[str, Any] = {"height": size.height, "width": size.width, "fit": size.fit}
    native = f"{facts.height} x {facts.width}"
    small = f"{facts.objects[0]:.0f} pixels wide" if facts.objects else ""
    objects = f" and small objects are {small}" if small else ""
    all_of = "all images are" if facts.one_size else "most images are"
    given = facts.keys.get("input", {})
    if size.fit == "crop":
        found |= {"foreground": 0.5, "overlap": 0.25}
    if size.fit == "crop" and facts.apart and facts.test:
        why["input"] = (
            f"fit: crop, because train images are {native} and test images {facts.test[0]} x "
            f"{facts.test[1]}: stretched to one size, objects would have another scale in them "
            "than in training. Where both show the same at another resolution: fit: resize"
        )
    elif size.fit == "crop":
        why["input"] = (
            f"fit: crop, because {all_of} {native}{objects}: stretched to what this machine trains "
            "in the budget they would be lost. Random crops in training, half of them with an "
            "object; blended tiles at prediction"
        )
    elif size.fit == "pad":
        found["pad_mode"] = "reflect"
        why["input"] = (
            f"fit: pad, because {all_of} {native}: every pixel stays as it is, with a border up to "
            f"{size.height} x {size.width}"
        )
    else:
        share = "their own size" if size.scale >= 0.98 else f"{size.scale:.0%} of their size"
        seen = (
            f"; small objects are {small}, {facts.objects[0] * size.scale:.0f} then"
            if facts.objects
            else ""
        )
        why["input"] = (
            f"fit: resize, because {all_of} {native}: to {share}, what the budget allows{seen}"
        )
    if encoder.mean is not None and encoder.std is not None and facts.channels in (1, 3):
        mean, std = list(encoder.mean), list(encoder.std)
        if facts.channels == 1:
            mean, std = [sum(mean) / 3], [sum(std) / 3]
        measured = MEASURED.get(given.get("normalize", ""), ())
        own = {"mean": mean, "std": std}
        found |= {key: value for key, value in own.items() if key not in measured}
        if not measured:
            why["input.mean"] = f"what the weights of {encoder.name} were trained with"
    return {**found, **given}


def _members(spent: Spent, encoder: Encoder, why: Why) -> dict[str, Any]:
    short = encoder.name.removeprefix("tu-")
    found = {f"unet_{short}": encoder.member()}
    if spent.models > 1:
        found[f"unet_{short}_b"] = {**encoder.member(), "seed": 1}
    told = f", from {spent.models} seeds" if spent.models > 1 else ""
    why["members"] = (
        f"U-Net with {encoder.name} ({encoder.where}){told}: "
        f"{1 / spent.candidate.pace.step_s * spent.candidate.pace.batch_size:.1f} images a second "
        "were measured here for each job"
    )
    return found


def _stages(task: str, spent: Spent, encoder: Encoder, why: Why) -> list[dict[str, Any]]:
    first, second = LOSSES[task]
    cycle = (spent.epochs - spent.first_epochs) // spent.snapshots
    rate = 1e-3 if encoder.weights else 1.5e-3
    warm = round(min(1.0, spent.first_epochs / 5), 2)
    kept = counted(spent.snapshots, "snapshot")
    first_size = spent.candidate.first
    small = (
        f" on images with {spent.candidate.first_share:.0%} of the pixels, as more of them fit "
        "into the time (the scores of these epochs are measured at the full size, and so are low),"
        if first_size
        else ","
    )
    why["stages"] = (
        f"first a smooth loss{small} then one that is close to IoU; {kept} of each member, at the "
        "ends of the learning rate's cycles"
    )
    optimizer: dict[str, Any] = {"name": "adamw", "lr": rate, "weight_decay": 0.01}
    if encoder.weights:
        optimizer["encoder_lr"] = rate / 2
    half = {key: value / 2 if key.endswith("lr") else value for key, value in optimizer.items()}
    return [
        {"loss": first, "optimizer": optimizer,
         "schedule": {"kind": "cosine", "epochs_per_cycle": spent.first_epochs,
                      "warmup_epochs": warm, "min_lr_scale": 0.3},
         **({"input_size": list(first_size)} if first_size else {})},
        {"loss": second, "optimizer": half,
         "schedule": {"kind": "cosine", "cycles": spent.snapshots, "epochs_per_cycle": cycle},
         "keep": "cycles"},
    ]  # fmt: skip


def _train(facts: Facts, spent: Spent, why: Why) -> dict[str, Any]:
    batch = spent.candidate.pace.batch_size
    passes = spent.updates * batch / max(1.0, facts.num_train * spent.folds.share)
    why["train"] = (
        f"{spent.updates:,} updates of {batch} images, {passes:.1f} passes over the train images "
        f"of a member, in {spent.epochs} epochs"
    )
    return {"batch_size": batch, "steps_per_epoch": spent.steps_per_epoch,
            "evaluate_every": spent.evaluate_every}  # fmt: skip


def batch_size(facts: Facts, size: Size, gpu: bool) -> int:
    """Images of an update: few where there are few images, or large ones for a CPU."""
    if facts.num_train < (100 if gpu else 200):
        return 8 if gpu else 4
    if gpu:
        return 32 if facts.num_train > 2000 and size.pixels <= 384 * 384 else 16
    return 8 if facts.num_train < 400 or size.pixels > 160 * 160 else 16


def predict_batch(facts: Facts, size: Size, gpu: bool) -> int:
    """Images of a batch of the prediction: few where they are large."""
    native = [(facts.height, facts.width), *([facts.test] if facts.test else [])]
    pixels = max(max(size.predicts(*one), math.prod(one)) for one in native)
    return max(1, min(32, int(PREDICTED * (10 if gpu else 1) / pixels)))


def _compute(spent: Spent, gpu: bool, slots: int, why: Why) -> dict[str, Any]:
    found: dict[str, Any] = {"executor": "local", "precision": "auto"}
    jobs = min(slots, spent.members)
    if not gpu and jobs > 1:
        found["slots"] = jobs
        why["compute"] = f"{jobs} members side by side, each on its own cores"
    per_job = math.ceil(spent.members / max(1, jobs))
    if per_job > 1:
        found["members_per_job"] = per_job
    return found


def header(
    facts: Facts, spent: Spent, said: str, command: str, target: str, machine: str, budget: float,
    fits: bool,
) -> list[str]:  # fmt: skip
    """The first lines of the file: how to start it, where, how long, and what the data is."""
    phases = ", ".join(f"{name} {duration(s)}" for name, s in spent.forecast.phases.items())
    empty = f", {facts.empty:.0%} without an object" if facts.empty else ""
    tests = f" and {counted(facts.num_test, 'test image')}" if facts.num_test else ""
    lines = [
        f"distseg run {target}",
        f"Written by `{command}`.",
        f"Hardware: {machine}. Time: about {spent.forecast.text()}: {phases}.",
        f"Data: {counted(facts.num_train, 'train image')}{tests}, {facts.height} x {facts.width} "
        f"pixels{'' if facts.one_size else ' in the middle'}{empty}.",
    ]
    if facts.apart and facts.test:
        lines.append(_told_apart(facts, spent.candidate.size))
    if facts.sampled < facts.num_train:
        lines.append(f"Looked at: {facts.sampled} images, spread over the set.")
    if facts.copies:
        lines.append(
            f"Byte-identical to another image, with which they share a fold: {facts.copies:,} of "
            f"{facts.sampled:,}; `distseg inspect` names them."
        )
    if facts.bad:
        lines.append(f"Rows that cannot be used: {facts.bad:,}; `distseg inspect` says why.")
    if not fits:
        lines.append(
            f"THE BUDGET OF {duration(budget)} IS TOO SHORT for this data on this machine: this is "
            "the shortest run that makes sense."
        )
    elif lost := _lost(facts, spent.candidate.size, budget):
        lines.append(lost)
    return [*lines, f"{said[0].upper()}{said[1:]}."]


def _lost(facts: Facts, size: Size, budget: float) -> str:
    """What is said where the images are stretched so far that little is left of their objects."""
    if facts.objects is None or size.fit != "resize" or "fit" in facts.keys.get("input", {}):
        return ""
    small, middle = (width * size.scale for width in facts.objects)
    if visible(middle) >= HARDLY:
        return ""
    return (
        f"THE BUDGET OF {duration(budget)} IS SHORT FOR OBJECTS THIS SMALL: at {size.scale:.0%} of "
        f"the images' size, which is what fits in it, they are {small:.1f} to {middle:.1f} pixels "
        "wide and hardly seen. A longer budget has time for crops, which show them as they are; "
        "input.fit=crop asks for the shortest such run."
    )


def _told_apart(facts: Facts, size: Size) -> str:
    """What is said of test images of another size than the train images."""
    assert facts.test is not None
    high, wide = facts.test
    what = {
        "resize": "fit: resize shows them at another scale than in training, which costs score "
        "unless they are the same pictures at another resolution; input.fit=crop keeps the scale",
        "crop": "they are predicted in tiles, in which objects keep the scale of the train images",
        "pad": "they are predicted whole, in which objects keep the scale of the train images",
    }[size.fit]
    return (
        f"TEST IMAGES OF ANOTHER SIZE: {facts.apart:.0%} are larger or smaller than the train "
        f"images, {high} x {wide} pixels in the middle: {what}."
    )
