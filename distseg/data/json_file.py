"""A JSON of somebody else's: read with limits, or refused in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distseg.records.errors import UserError
from distseg.records.files import open_regular


def read_tree(path: Path, max_bytes: int, max_values: int) -> Any:
    """What a JSON holds. UserError: it cannot be read, is larger than the limits, or is none."""

    def refuse(token: str) -> None:
        raise ValueError(f"holds {token}, which is no number")

    try:
        with open_regular(path) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise UserError(f"{path}: has more than {max_bytes >> 20} MiB; split it")
        if (count := sum(data.count(mark) for mark in (b",", b"[", b"{"))) > max_values:
            raise UserError(f"{path}: holds {count:,} values; at most {max_values:,} are read")
        return json.loads(data.decode("utf-8-sig"), parse_constant=refuse)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path}: cannot be read as JSON: it is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError is one
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
