"""The data layouts by name. Each is one file of data/formats/, with `train`, `test`, `submission`,
`test_truth` and `READS`."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

from distseg.config.schema import Config
from distseg.data.formats import (
    camvid,
    coco,
    folder,
    labelme,
    oxford_pet,
    severstal,
    synthetic,
    table,
    tgs,
    tianchi,
    yolo,
)
from distseg.data.formats.row import SubmissionSpec
from distseg.records.errors import UserError, unknown

FORMATS: dict[str, ModuleType] = {
    "tgs": tgs,
    "severstal": severstal,
    "tianchi": tianchi,
    "oxford_pet": oxford_pet,
    "camvid": camvid,
    "table": table,
    "coco": coco,
    "yolo": yolo,
    "labelme": labelme,
    "folder": folder,
    "synthetic": synthetic,
}
OWN_SPLIT = "data.folds.kind=split"  # what `with_own_split` writes


def submission_of(config: Config) -> SubmissionSpec:
    """The form of the submission: the layout's, with what the config's `submission` says."""
    spec = layout(config.data.format).submission(config)
    per_object = config.submission.per_object
    if per_object and spec.kind != "rle":
        raise UserError(
            "submission.per_object: true: is for a table of RLEs, and the submission is masks"
        )
    return replace(spec, per_object=per_object)


def layout(name: str) -> ModuleType:
    """The module of a `data.format`; UserError names the nearest one."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS, "data.format: ")
    return FORMATS[name]


def rle_options(config: Config) -> dict[str, Any]:
    """How the RLEs of a data set count pixels: order, base and empty of `functional.rle`."""
    if config.data.format == "table":
        spec = submission_of(config)
        return {"order": spec.order, "base": spec.base, "empty": spec.empty}
    options = config.data.folder  # its defaults are the convention of the layouts without the keys
    return {"order": options.rle_order, "base": options.rle_base, "empty": options.rle_empty}


def said(config: Config) -> list[str]:
    """What a layout has found by the names of its files, a line each."""
    form = layout(config.data.format)
    return list(form.said(config)) if hasattr(form, "said") else []


def with_own_split(config: Config) -> Config:
    """The config, where the data set's own validation part makes the folds: it has one, and nobody
    has written `data.folds.kind`."""
    form, folds = layout(config.data.format), config.data.folds
    if "kind" in folds.model_fields_set or not hasattr(form, "has_split"):
        return config
    if not form.has_split(config):
        return config
    data = config.data.model_copy(update={"folds": folds.model_copy(update={"kind": "split"})})
    return config.model_copy(update={"data": data})
