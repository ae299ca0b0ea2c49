"""One way to tell a user that a name is unknown: the nearest valid one, then all of them."""

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error to raise for an unknown name.

    >>> print(unknown_name("loss", "lovas", ["bce", "lovasz"]))
    unknown loss 'lovas': did you mean 'lovasz'? (valid: bce, lovasz)
    """
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.0)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return ValueError(f"unknown {kind} {name!r}: {hint}(valid: {', '.join(names) or 'none'})")
