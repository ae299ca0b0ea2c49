"""What the keys that say what a mask file means cannot be together."""

from __future__ import annotations

from collections.abc import Iterator

from distseg.config.schema import Config
from distseg.records.errors import unknown_line


def label_mistakes(config: Config) -> Iterator[str]:
    """What mask files mean: keys that contradict each other, or that nothing would read."""
    data, folder = config.data, config.data.folder
    named = "mask_values" if data.mask_values is not None else "colors"
    if data.strict and data.allow_bad:
        yield "data.allow_bad: true: data.strict stops at the first bad row; write one of them"
    if data.levels is not None and not data.levels[0] < data.levels[1]:
        yield f"data.levels: {list(data.levels)}: the first is below the second"
    if data.mask_values is not None and data.colors is not None:
        yield "data.colors: data.mask_values says already what a mask holds; write one of them"
    others = {
        "data.folder.threshold": folder.threshold > 0,
        "data.folder.inverted": folder.inverted,
        "data.folder.numbered": folder.numbered,
        "void": config.void is not None,
        "data.mask_channel": data.mask_channel != "auto" and data.colors is not None,
    }
    for key, is_set in others.items():
        if is_set and (data.mask_values is not None or data.colors is not None):
            hint = " (255 there: counts nowhere)" if key == "void" else ""
            yield f"{key}: data.{named} says already what a mask holds{hint}; write one of them"
        elif is_set and config.task == "multiclass" and key.startswith("data.folder"):
            yield f"{key}: is for masks of two values, not for task: multiclass"
    for key, is_set in (("threshold", folder.threshold > 0), ("inverted", folder.inverted)):
        if is_set and folder.numbered:
            yield (
                f"data.folder.{key}: data.folder.numbered says already which values are the "
                "object; write one of them"
            )
    if folder.mask is not None and folder.mask_suffix:
        yield "data.folder.mask_suffix: data.folder.mask says it already; write one of them"
    yield from _meanings(config)


def _meanings(config: Config) -> Iterator[str]:
    """Values that are no class, and colors of no class."""
    data, num = config.data, len(config.classes)
    highest = num - 1 if config.task == "multiclass" else num
    for value, meaning in (data.mask_values or {}).items():
        if not (0 <= meaning <= highest or meaning == 255):
            yield f"data.mask_values.{value}: {meaning}: valid: 0..{highest}, or 255 (no label)"
    if data.colors is None:
        return
    extra = ["void"] if config.task == "multiclass" else ["background", "void"]
    for name in data.colors:
        if name not in (*config.classes, *extra):
            yield unknown_line("data.colors", "class", name, [*config.classes, *extra])
    for name in config.classes:
        if name not in data.colors:
            yield f"data.colors: class {name} has no color"
    for number, (name, color) in enumerate(data.colors.items()):
        for other in list(data.colors)[:number]:
            if data.colors[other] == color:
                yield f"data.colors.{name}: {list(color)} is that of {other}"
