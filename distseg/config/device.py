"""What `compute.augment_on: device` cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distseg.config.augment import MOVES, AugmentConfig, transforms
from distseg.config.schema import Config

# What it can do, in the order that it does it in.
ORDER = (MOVES, ("brightness_contrast", "gamma", "cutout"), ("noise",))
HOST = "compute.augment_on: device cannot do that; use compute.augment_on: host"


def device_mistakes(config: Config) -> Iterator[str]:
    """One line for each mistake: transforms, borders and stages that need the host."""
    if config.compute.augment_on == "host":
        return
    for key, steps in config.augment_lists():
        yield from (f"{key}.{line}" for line in _transforms(steps))
    for name, member in config.members.items():
        size = config.input_of(name)
        where = "input" if member.input is None else f"members.{name}.input"
        if size.fit == "pad" and size.pad_mode == "biharmonic":
            yield f"{where}.pad_mode: biharmonic: continues the augmented picture; {HOST}"
        if size.fit == "pad" and size.scale_to is not None:
            yield f"{where}.scale_to: the picture is augmented before it is stretched; {HOST}"
    for key, stage in config.written_stages():
        if stage.freeze_encoder == "always" and stage.views is not None:
            yield f"{key}.views: {stage.views}: kept maps are of images that the host drew; {HOST}"


def _transforms(steps: Sequence[AugmentConfig]) -> Iterator[str]:
    """What of a list it cannot do, or not in this order."""
    places = {name: place for place, names in enumerate(ORDER) for name in names}
    last, noises = 0, 0
    for name, _ in transforms(steps):
        if name not in places:
            yield f"{name}: {HOST}; or one of {', '.join(places)}"
            continue
        noises += name == "noise"
        if places[name] < last or noises > 1:
            yield (
                f"{name}: compute.augment_on: device moves pixels first, then changes gray values, "
                "and adds noise once, at the end. Put the transforms in this order, or use "
                "compute.augment_on: host"
            )
        last = max(last, places[name])
