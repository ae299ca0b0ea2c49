"""Names of the test-time views, without torch: what the config checks against."""

import math
import re
from collections.abc import Sequence

from distseg.functional.naming import unknown_name

# Each flip or rotation as (transpose first, then flip rows, then flip columns). As in torch and
# numpy, rot90 is a quarter turn counter-clockwise. "d4" is all eight.
Flip = tuple[bool, bool, bool]
FLIPS: dict[str, Flip] = {
    "none": (False, False, False),
    "hflip": (False, False, True),
    "vflip": (False, True, False),
    "rot90": (True, True, False),
    "rot180": (False, True, True),
    "rot270": (True, False, True),
    "transpose": (True, False, False),
    "antitranspose": (True, True, True),
}
MODES = (*FLIPS, "d4")
MAX_SCALE = 8.0
MAX_PASSES = 1000

_DROPOUT = re.compile(r"dropout:([0-9]{1,4})")
_SCALE = re.compile(r"scale:([0-9]*\.?[0-9]+)")


def parse_scale(mode: str) -> float | None:
    """The factor of a mode like "scale:0.75", None for any other mode; ValueError if it is bad."""
    if not mode.startswith("scale"):
        return None
    match = _SCALE.fullmatch(mode)
    scale = float(match[1]) if match else math.nan
    if not 1 / MAX_SCALE <= scale <= MAX_SCALE:
        raise ValueError(
            f"TTA mode {mode!r} must be written like 'scale:0.75',"
            f" with a factor in [{1 / MAX_SCALE:g}, {MAX_SCALE:g}]"
        )
    return scale


def dropout_passes(modes: Sequence[str]) -> int:
    """N of a mode "dropout:N": passes of each view with dropout kept on; 0 without such a mode.
    ValueError if it is bad."""
    found = 0
    for mode in modes:
        if mode.startswith("dropout"):
            match = _DROPOUT.fullmatch(mode)
            found = int(match[1]) if match else 0
            if not 1 <= found <= MAX_PASSES:
                raise ValueError(
                    f"TTA mode {mode!r} must be written like 'dropout:8', with a number of "
                    f"passes in [1, {MAX_PASSES}]"
                )
    return found


def check_modes(modes: Sequence[str]) -> None:
    """Raise ValueError for a mode that does not exist, naming the nearest one."""
    if isinstance(modes, str):
        raise ValueError(f"TTA modes must be a list such as [{modes}], not the text {modes!r}")
    for mode in modes:
        if not isinstance(mode, str) or not (
            mode in MODES or parse_scale(mode) is not None or dropout_passes([mode])
        ):
            raise unknown_name("TTA mode", mode, [*MODES, "scale:0.75", "dropout:8"])


def closure(modes: Sequence[str]) -> list[Flip]:
    """The group that the named flips generate, in the order of FLIPS."""
    generators = list(FLIPS.values()) if "d4" in modes else [FLIPS[m] for m in modes if m in FLIPS]
    reached = {FLIPS["none"]}
    while True:
        more = reached | {_then(a, b) for a in reached for b in generators}
        if more == reached:
            return [flip for flip in FLIPS.values() if flip in reached]
        reached = more


def _then(first: Flip, second: Flip) -> Flip:
    """The flip that does `first` and then `second`: a transpose swaps the flips before it."""
    rows, columns = first[1:]
    if second[0]:
        rows, columns = columns, rows
    return first[0] ^ second[0], rows ^ second[1], columns ^ second[2]


def num_passes(modes: Sequence[str]) -> int:
    """Times that the network sees an image: its views, each as often as dropout asks for."""
    check_modes(modes)
    scales = {1.0, *(scale for mode in modes if (scale := parse_scale(mode)) is not None)}
    return len(closure(modes)) * len(scales) * max(1, dropout_passes(modes))
