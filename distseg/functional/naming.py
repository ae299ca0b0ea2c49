"""One way to say that a name is unknown: the nearest valid one, then all of them."""

import difflib
import re
from collections.abc import Iterable

LONGEST = 200  # characters of a name
MOST = 40  # names that a message lists


def as_name(text: str) -> str:
    """A text of a data set as a config may write it: `traffic light` becomes `traffic_light`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_.-")[:80]


def nearest(value: object, valid: Iterable[object]) -> str | None:
    """The name among `valid` that is spelled most like `value`, or None when none is close."""
    if len(str(value)) > LONGEST:
        return None  # no name is like it, and to compare would take long
    names = [str(name) for name in valid]
    lowered = {name.lower(): name for name in reversed(names)}
    match = difflib.get_close_matches(str(value).lower(), list(lowered), n=1, cutoff=0.5)
    return lowered[match[0]] if match else None


def unknown_text(what: str, value: object, valid: Iterable[object]) -> str:
    """The message for a name that is not among `valid`.

    >>> unknown_text("loss", "lovas", ["bce", "lovasz"])
    "unknown loss 'lovas'. Did you mean 'lovasz'? Valid: bce, lovasz"
    """
    names = [str(name) for name in valid]
    close = nearest(value, names)
    hint = f" Did you mean {close!r}?" if close else ""
    listed = ", ".join(names[:MOST]) + (", ..." if len(names) > MOST else "")
    told = repr(str(value)[:LONGEST]) + "..." * (len(str(value)) > LONGEST)
    return f"unknown {what} {told}.{hint} Valid: {listed or 'none'}"


def unknown_name(what: str, value: object, valid: Iterable[object]) -> ValueError:
    """The error to raise for a name that is not among `valid`."""
    return ValueError(unknown_text(what, value, valid))
