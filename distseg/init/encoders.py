"""Which encoders fit this data and machine, and whose pretrained weights are at hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distseg.config.member import MemberConfig
from distseg.init.sizes import Size, smaller
from distseg.records.errors import UserError
from distseg.records.files import path_problem

SUFFIX = ".safetensors"
MAX_FILES = 200


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder that may be chosen.

    name: as a config writes it. weights: of the config's `encoder_weights`. quality: how good its
    masks are after long training, as a share of the best here; a prior of the arithmetic, found by
    hand. where: what is said of its weights. mean, std: what its weights were trained with; None:
    ImageNet's usual ones. begins_smaller: a first stage may show it smaller images.
    """

    name: str
    quality: float
    depth: int = 5
    channels: tuple[int, ...] = (128, 64, 48, 32, 16)
    weights: str | None = None
    where: str = "random weights"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    begins_smaller: bool = True

    def smaller(self, size: Size) -> tuple[int, int] | None:
        """(height, width) that a first stage may train at before it trains at a size."""
        return smaller(size, int(2**self.depth)) if self.begins_smaller else None

    def member(self) -> dict[str, object]:
        """The member of a config, as a tree."""
        decoder: dict[str, object] = {"decoder_channels": list(self.channels)}
        if self.depth != 5:
            decoder["encoder_depth"] = self.depth
        return {"arch": "Unet", "encoder": self.name, "encoder_weights": self.weights,
                "decoder": decoder}  # fmt: skip


# Small ones for a CPU: of them all, these gave the best masks for their time.
SMALL = (
    Encoder("tu-tf_efficientnet_lite0", 1.0),
    Encoder("resnet34", 1.02),
    Encoder("resnet18", 1.0),
)
LARGE = (
    Encoder("tu-convnext_tiny", 1.06, channels=(256, 128, 64, 32, 16)),
    Encoder("resnet34", 1.02, channels=(256, 128, 64, 32, 16)),
    Encoder("tu-tf_efficientnet_lite0", 1.0),
)
# Without weights a short net learns faster, and loses nothing.
SMALL_SCRATCH = (
    Encoder("resnet18", 0.92, depth=4, channels=(64, 32, 24, 16)),
    Encoder("tu-resnet10t", 0.9, depth=4, channels=(64, 32, 16, 16)),
)
LARGE_SCRATCH = (
    Encoder("resnet34", 0.94, channels=(256, 128, 64, 32, 16)),
    Encoder("resnet18", 0.92, depth=4, channels=(64, 32, 24, 16)),
)


@dataclass(frozen=True, slots=True)
class Offer:
    """encoders: the best known first; said: what is to be said of pretrained weights."""

    encoders: tuple[Encoder, ...]
    said: str


def at_hand(gpu: bool, folder: Path | None, most: int = 2) -> Offer:
    """Encoders with weights of a folder, of the hub's cache, or of the hub where it answers; else
    such without. At most `most` of them. UserError: the folder holds no weights that fit."""
    if folder is not None:
        return Offer(tuple(_of_folder(folder, gpu)[:most]), f"pretrained weights: {folder}")
    wanted = LARGE if gpu else SMALL
    found, problems = [], []
    for encoder in wanted:
        where, problem = _on_hub(encoder)
        if problem:
            problems.append(problem)
        else:
            found.append(_trained(encoder, "imagenet", where))
    if found:
        return Offer(tuple(found[:most]), f"pretrained weights: {found[0].where}")
    said = (
        f"no pretrained weights are at hand ({problems[0]}): encoders begin with random weights, "
        "which costs score. `distseg init --weights FOLDER` takes a folder of .safetensors files, "
        "each named by its encoder"
    )
    return Offer((LARGE_SCRATCH if gpu else SMALL_SCRATCH)[:most], said)


def _of_folder(folder: Path, gpu: bool) -> list[Encoder]:
    """The encoders that files of a folder are named by: those that are known to be good first."""
    if problem := path_problem(folder, "folder"):
        raise UserError(f"--weights {folder}: {problem}")
    files = sorted(p for p in folder.iterdir() if p.suffix == SUFFIX)[:MAX_FILES]
    order = {one.name: place for place, one in enumerate(LARGE if gpu else SMALL)}
    found, problems = [], []
    for path in files:
        encoder, problem = _of_file(path)
        if encoder is None:
            problems.append(f"{path.name}: {problem}")
        else:
            found.append(encoder)
    if not found:
        why = "; ".join(problems[:3]) or f"it holds no {SUFFIX} file"
        raise UserError(
            f"--weights {folder}: {why}. A file is named by its encoder, such as "
            f"resnet34{SUFFIX} or tu-convnext_tiny{SUFFIX} (`distseg list encoders`)"
        )
    return sorted(found, key=lambda one: order.get(one.name, len(order)))


def _of_file(path: Path) -> tuple[Encoder | None, str]:
    """(the encoder of a file of weights, or None and why)."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from distseg.models.check import weights_problem
    from distseg.models.encoders import check_encoder

    problem = ""
    for name in dict.fromkeys((path.stem, f"tu-{path.stem.removeprefix('tu-')}")):
        known = next((one for one in (*SMALL, *LARGE) if one.name == name), Encoder(name, 1.0))
        try:
            check_encoder(name)
        except UserError as error:
            problem = problem or str(error).partition(". Valid")[0]
            continue
        member = MemberConfig.model_validate({**known.member(), "encoder_weights": str(path)})
        if not (misfit := weights_problem(member)):
            return _trained(known, str(path.absolute()), path.name), ""
        problem = misfit
    return None, problem


def _on_hub(encoder: Encoder) -> tuple[str, str]:
    """(where the weights are, why they cannot be had)."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from distseg.models.check import hub_problem, is_cached

    if is_cached(encoder.name, "imagenet"):
        return "in the hub's local cache", ""
    problem = hub_problem()
    return "fetched from the hub when the run begins", problem


def _trained(encoder: Encoder, weights: str, where: str) -> Encoder:
    from distseg.models.encoders import fits_any_size

    mean, std = trained_with(encoder.name)
    any_size = fits_any_size(MemberConfig.model_validate(encoder.member()))
    return replace(
        encoder, weights=weights, where=where, mean=mean, std=std, begins_smaller=any_size
    )


def trained_with(name: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation of the colors (0..1) that an encoder's weights expect; (None,
    None): ImageNet's usual ones."""
    if not name.startswith("tu-"):
        return None, None
    from distseg.models.check import timm_colors

    mean, std = timm_colors(name)
    usual = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return (None, None) if (mean, std) == usual else (mean, std)


def same_input(encoders: Sequence[Encoder]) -> bool:
    """Whether all of them expect the same colors."""
    return len({(one.mean, one.std) for one in encoders}) == 1
