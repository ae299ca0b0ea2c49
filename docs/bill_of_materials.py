"""What distseg is installed with: a CycloneDX bill of materials, and docs/licences.md.

    python docs/bill_of_materials.py bom.json

Reads the metadata of the packages that distseg and its extras need, as they are installed here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

EXTRAS = ("", "ray", "deepspeed", "export")
LICENCES = Path(__file__).with_name("licences.md")


def needed(name: str, extras: tuple[str, ...]) -> Iterator[str]:
    """Names of the installed packages that `name` needs, with these extras."""
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            yield requirement.name


def closure(root: str) -> list[metadata.Distribution]:
    """The packages that `root` needs, directly or through others, by name."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(needed(root, EXTRAS))
    while waiting:
        name = normal(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # an extra that is not installed, another platform's
            continue
        waiting += needed(name, ("",))
    return [found[name] for name in sorted(found)]


def normal(name: str) -> str:
    """A package's name as the index spells it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(package: metadata.Distribution) -> str:
    """The licence as the package's metadata say it."""
    found = package.metadata
    if expression := found.get("License-Expression"):
        return expression
    kinds = [
        text.rpartition("::")[2].strip()
        for text in found.get_all("Classifier") or []
        if text.startswith("License ::")
    ]
    first = (found.get("License") or "").strip().splitlines()
    return " / ".join(kinds) or (first[0][:60] if first else "not stated")


def bill(packages: list[metadata.Distribution]) -> dict[str, Any]:
    """CycloneDX 1.5, as a JSON object."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "distseg"}},
        "components": [
            {
                "type": "library",
                "name": normal(one.metadata["Name"]),
                "version": one.version,
                "purl": f"pkg:pypi/{normal(one.metadata['Name'])}@{one.version}",
                "licenses": [{"license": {"name": licence(one)}}],
            }
            for one in packages
        ],
    }


def main() -> None:
    packages = closure("distseg")
    lines = [
        "# Licences",
        "",
        "Of what distseg, its extras and their own needs install; made by",
        "docs/bill_of_materials.py from the packages' metadata. distseg itself: Apache-2.0.",
        "",
        "| package | licence |",
        "|---|---|",
        *(f"| {normal(one.metadata['Name'])} | {licence(one)} |" for one in packages),
    ]
    LICENCES.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(json.dumps(bill(packages), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
