"""What `compute.augment_on: device` cannot do."""

from __future__ import annotations

from collections.abc import Iterator

from distseg.config.augment import device_mistakes
from distseg.config.schema import Config


def augment_on_mistakes(config: Config) -> Iterator[str]:
    """One line for each mistake: transforms, borders and stages that need the host."""
    if config.compute.augment_on == "host":
        return
    host = "compute.augment_on: device cannot do that; use compute.augment_on: host"
    for key, steps in config.augment_lists():
        yield from (f"{key}.{line}" for line in device_mistakes(steps))
    for name, member in config.members.items():
        size, where = (
            config.input_of(name),
            "input" if member.input is None else f"members.{name}.input",
        )
        if size.fit == "pad" and size.pad_mode == "biharmonic":
            yield f"{where}.pad_mode: biharmonic: continues the augmented picture; {host}"
        if size.fit == "pad" and size.scale_to is not None:
            yield f"{where}.scale_to: the picture is augmented before it is stretched; {host}"
    for key, stage in config.written_stages():
        if stage.freeze_encoder == "always" and stage.views is not None:
            yield f"{key}.views: {stage.views}: kept maps are of images that the host drew; {host}"
