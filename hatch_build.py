"""The page of the package index: README.md without links that lead nowhere from there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)]+)\)")


def absolute(text: str, source: str | None) -> str:
    """Markdown whose relative links are below `source`, the address of the source tree; without
    one they become their text, and pictures go."""

    def replace(found: re.Match[str]) -> str:
        picture, words, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        if source is None:
            return "" if picture else words
        folder = "raw/HEAD" if picture else "blob/HEAD"
        return f"{picture}[{words}]({source.rstrip('/')}/{folder}/{target})"

    return LINK.sub(replace, text)


class Readme(MetadataHookInterface):
    """Sets `readme`. The address is `Source` of project.urls."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling with the table `project`."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        made = absolute(text, metadata.get("urls", {}).get("Source"))
        metadata["readme"] = {"content-type": "text/markdown", "text": made}
