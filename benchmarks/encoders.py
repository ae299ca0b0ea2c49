"""Which models of timm are encoders, and what each family needs: made without weights.

    python benchmarks/encoders.py [--all] [--names 'vit_*' 'eva*'] [--out FILE.md]

A family is a file of timm; of each, one model is made for each first word of a name (--all: every
model), on the device "meta", where nothing is computed. The table: benchmarks/results/encoders.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import timm

from distseg.models.encoders import has_fixed_size
from distseg.models.pyramid import needs_pyramid, strides, takes_any_size
from distseg.records.files import atomic_write

HEAD = """| file of timm | example: `encoder: tu-` | strides | the decoder's maps | image sizes |
|---|---|---|---|---|
"""
DOUBLED = {"vit", "swin", "swinv2"}  # first words that say too little: the second one, too


def representatives(module: str, every: bool) -> list[str]:
    """Names of a family: one for each first word, or all."""
    names = timm.list_models(module=module)
    if every:
        return list(names)
    found: dict[str, str] = {}
    for name in names:
        words = name.split("_")
        found.setdefault("_".join(words[: 1 + (words[0] in DOUBLED)]), name)
    return list(found.values())


def row(module: str, name: str) -> str:
    """What one model needs, as a row of the table."""
    encoder = f"tu-{name}"
    given = strides(encoder)
    if not given:
        return f"| {module} | {name} | none | gives no maps: refused | |"
    shown = ", ".join(map(str, dict.fromkeys(given)))
    if needs_pyramid(encoder):
        how, any_size = "a feature pyramid on its own", takes_any_size(encoder)
    else:
        how, any_size = "its own", not has_fixed_size(encoder)
    return f"| {module} | {name} | {shown} | {how} | {'any' if any_size else 'the config’s'} |"


def rows(names: Sequence[str], every: bool) -> Iterator[str]:
    """The table's rows, family by family."""
    if names:
        for name in timm.list_models(list(names)):
            yield row(timm.model_entrypoint(name).__module__.rpartition(".")[2], name)
        return
    for module in timm.list_modules():
        for name in representatives(module, every):
            yield row(module, name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="every model, not one of each kind")
    parser.add_argument("--names", nargs="*", default=[], help="patterns of timm's names")
    parser.add_argument("--out", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    lines = []
    for line in rows(arguments.names, arguments.all):
        print(line, flush=True)
        lines.append(line)
    text = f"# Encoders of timm {timm.__version__}\n\n{HEAD}" + "\n".join(lines) + "\n"
    if arguments.out:
        atomic_write(arguments.out, text)
        print(f"written: {arguments.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
