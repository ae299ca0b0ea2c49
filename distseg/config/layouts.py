"""The config's sections for the layouts that are found by what their files hold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distseg.config.fields import Strict

Folders = str | list[str]


class CsvConfig(Strict):
    """`data.format: table`: where its files lie and what `data.table` holds. What is null is found
    from the data where that is sure, and else refused with the key to write."""

    images: Folders | None = Field(
        None, description="folder of the train images, or several; relative to data.root"
    )
    test_images: Folders | None = Field(
        None, description="folder of the images to predict, or several; relative to data.root"
    )
    masks: Folders | None = Field(
        None, description="folder that the paths of masks begin in, or several; null: found"
    )
    sample: str | None = Field(
        None, description="the sample submission: ids, their order and the form to write"
    )
    image_column: str | None = Field(
        None,
        description='the column of the images, or several as in "{subject}_{img}"; one with image '
        "and class in a cell is known by its name (ImageId_ClassId, Image_Label)",
    )
    class_column: str | None = Field(None, description="the column of the classes")
    mask_column: str | None = Field(None, description="the column of RLEs, or of paths of masks")
    first_class: Literal[0, 1] | None = Field(
        None,
        description="the number of the first of `classes`, where the table has numbers; null: 0 in "
        "multiclass, else 1, or 0 where the table has a 0",
    )
    order: Literal["column", "row"] | None = Field(
        None, description="how RLEs count pixels: down the columns (Kaggle's usual) or along rows"
    )
    base: Literal[0, 1] | None = Field(None, description="the number of an RLE's first pixel")
    empty: str | None = Field(
        None, description="what a submission has for a mask without an object"
    )
    unlisted: Literal["empty", "leave_out"] | None = Field(
        None,
        description="images that the table does not name, and classes of those that it names: "
        "without an object, or not used; null: refused, unless the table has rows for empty masks",
    )


class ShapesConfig(Strict):
    """What the layouts of outlined objects have in common."""

    other_categories: Literal["refuse", "background", "void"] = Field(
        "refuse", description="what objects count as whose category is not in `classes`"
    )
    submission: Literal["masks", "rle"] = Field("masks", description="what a submission is")


class CocoConfig(ShapesConfig):
    """`data.format: coco`: where its files lie and what its categories are. What is null is found
    from the data where that is sure."""

    train: str | None = Field(
        None,
        description="JSON of the train images, relative to data.root; null: it and the others are "
        "found by their names",
    )
    val: str | None = Field(
        None, description="JSON of the data set's own validation part (data.folds.kind: split)"
    )
    test: str | None = Field(
        None, description="JSON of the images to predict; with annotations it is their truth"
    )
    images: Folders | None = Field(
        None, description="folder of the train images, or several; relative to data.root"
    )
    val_images: Folders | None = Field(None, description="the same for `val`")
    test_images: Folders | None = Field(
        None, description="the same for `test`; without `test` all images of it are predicted"
    )


class YoloConfig(ShapesConfig):
    """`data.format: yolo`: its YAML, and what its names are."""

    yaml: str | None = Field(
        None,
        description="the YAML of parts and names, in data.root; null: the one that has `names` and "
        "`train`",
    )


class LabelmeConfig(ShapesConfig):
    """`data.format: labelme`: which of its images are whose, and what its labels are."""

    test_images: Folders | None = Field(
        None,
        description="folder of the images to predict, or several; relative to data.root; null: the "
        "one that is called so",
    )
    unlisted: Literal["empty", "leave_out"] | None = Field(
        None,
        description="images without a JSON: without an object, or not used; null: refused",
    )
