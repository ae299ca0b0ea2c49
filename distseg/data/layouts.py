"""The data layouts by name. Each is one file of data/formats/, with `train`, `test`, `submission`,
`test_truth` and `READS`."""

from __future__ import annotations

from types import ModuleType

from distseg.data.formats import camvid, folder, oxford_pet, severstal, synthetic, tgs, tianchi
from distseg.records.errors import unknown

FORMATS: dict[str, ModuleType] = {
    "tgs": tgs,
    "severstal": severstal,
    "tianchi": tianchi,
    "oxford_pet": oxford_pet,
    "camvid": camvid,
    "folder": folder,
    "synthetic": synthetic,
}


def layout(name: str) -> ModuleType:
    """The module of a `data.format`; UserError names the nearest one."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS, "data.format: ")
    return FORMATS[name]
