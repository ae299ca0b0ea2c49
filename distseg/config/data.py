"""The config's part on data: where it lies, how it is divided, what the network sees of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class FoldsConfig(Strict):
    """How the train set is divided."""

    kind: Literal["stratified", "group", "holdout", "bootstrap", "split", "file"] = Field(
        "stratified",
        description="stratified by mask coverage and emptiness; group: rows of one group stay "
        "together; holdout: fold 0 is `fraction` of the rows, all others train only; bootstrap: "
        "stratified, and each fold trains on rows drawn with replacement; split: fold 0 is the "
        "data set's own validation part, all others train only; file: read `path`",
    )
    num: Count = Field(5, description="number of folds")
    seed: int = Field(0, ge=0, description="seed of the division")
    use: list[int] | None = Field(None, description="folds to train; null: all of them")
    fraction: float = Field(0.2, gt=0, lt=1, description="share of rows that holdout validates")
    column: str | None = Field(None, description="group: the column of `groups` to group by")
    groups: str | None = Field(None, description="group: CSV `id,<column>`, relative to data.root")
    path: str | None = Field(None, description="file: CSV `id,fold`; fold -1 trains in every fold")
    strata: str | None = Field(
        None,
        description="CSV `id,<strata_column>`, relative to data.root: its quarters are spread "
        "evenly too, beside the coverage (TGS: depths.csv)",
    )
    strata_column: str = Field("z", description="the numeric column of `strata`")


class FolderConfig(Strict):
    """Layout of `data.format: folder`, relative to data.root."""

    images: str = Field("images", description="folder of the train images")
    masks: str = Field("masks", description="folder of the masks: same stem as the image")
    test_images: str | None = Field("test_images", description="folder of images to predict")
    mask_suffix: str = Field("", description="what a mask's stem has after the image's stem")
    inverted: bool = Field(False, description="binary masks: 0 is the object")
    threshold: int = Field(
        0, ge=0, le=65534, description="binary masks: values above it are the object (JPEG: 127)"
    )
    test_masks: str | None = Field(None, description="truth of the test images, when it is known")
    submission: Literal["masks", "rle"] = Field("masks", description="what a submission is")
    rle_order: Literal["column", "row"] = Field("column", description="how its RLEs count pixels")
    rle_base: Literal[0, 1] = Field(1, description="the number of the first pixel")
    rle_empty: str = Field("", description="what stands for a mask without an object")


class SyntheticConfig(Strict):
    """The data that `data.format: synthetic` makes."""

    num_train: Count = Field(96, description="train images")
    num_test: int = Field(48, ge=0, description="test images; their truth is kept")
    height: int = Field(64, ge=16, le=4096, description="pixels")
    width: int = Field(64, ge=16, le=4096, description="pixels")
    channels: Literal[1, 3] = Field(1, description="image channels")
    empty: Probability = Field(0.3, description="share of images without an object")
    noise: Probability = Field(0.0, description="share of train masks that are wrong on purpose")
    seed: int = Field(0, ge=0, description="seed of the images")


class DataConfig(Strict):
    """Where the data is and what it may look like."""

    format: str = Field(
        "folder",
        description="tgs | severstal | tianchi | oxford_pet | camvid | folder | synthetic: a file "
        "of data/formats/",
    )
    root: str = Field(".", description="folder of the data set, relative to where you start")
    table: str | None = Field(
        None, description="severstal, tianchi: the train table, instead of the usual name"
    )
    depths: str | None = Field(
        None,
        description="CSV `id,z`, relative to data.root (TGS: depths.csv): the depth is the last of "
        "input.channels, constant over the image; null: none",
    )
    border: Literal["pet", "background", "ignore"] = Field(
        "pet", description="oxford_pet: what a trimap's border pixels count as"
    )
    mask_values: dict[int, int] | None = Field(
        None, description="value of a mask file: what it means; 255 counts nowhere"
    )
    strict: bool = Field(False, description="a bad row stops the run, instead of a quarantine")
    folds: FoldsConfig = FoldsConfig()
    folder: FolderConfig = FolderConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    limit: Count | None = Field(None, description="use the first N train and test rows (a trial)")
    exclude_constant: bool = Field(
        False, description="leave out train images of a single value (TGS has 80 black ones)"
    )
    cache_dir: str | None = Field(
        None, description="folder of the decode cache, shared by runs; null: inside the run"
    )

    @property
    def value_map(self) -> dict[int, int] | None:
        """What the values of mask files mean; a trimap's 1 is pet, 2 background, 3 border."""
        if self.mask_values is None and self.format == "oxford_pet":
            return {1: 1, 2: 0, 3: {"pet": 1, "background": 0, "ignore": 255}[self.border]}
        return self.mask_values


class InputConfig(Strict):
    """What the network sees."""

    height: int = Field(128, ge=8, le=8192, description="pixels")
    width: int = Field(128, ge=8, le=8192, description="pixels")
    fit: Literal["pad", "resize", "crop"] = Field(
        "pad",
        description="pad: native pixels and a border; resize: stretched; crop: random crops in "
        "training, the whole image at prediction",
    )
    scale_to: tuple[int, int] | None = Field(
        None, description="pad: stretch to this (height, width) first, as 101 -> 202 -> 256"
    )
    pad_mode: Literal["reflect", "edge", "constant", "biharmonic"] = Field(
        "reflect",
        description="border; biharmonic: the smoothest surface that continues the image; it and a "
        "constant count nowhere",
    )
    random_offset: bool = Field(
        False,
        description="pad: the image lies anywhere in the canvas while training, else centered",
    )
    foreground: float = Field(
        0.0, ge=0, le=1, description="crop: share of training crops that hold a pixel of an object"
    )
    overlap: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="crop: predict in tiles of height x width that overlap by this share, blended; "
        "null: the whole image at once",
    )
    channels: int = Field(3, ge=1, le=64, description="image channels")
    normalize: Literal["fixed", "train", "median"] = Field(
        "fixed",
        description="fixed: `mean` and `std`; train: those of the member's own train folds; "
        "median: each image's median per channel is subtracted, then divided by `std`",
    )
    mean: list[float] | None = Field(None, description="per channel, 0..1; null: ImageNet's")
    std: list[Positive] | None = Field(None, description="per channel, 0..1; null: ImageNet's")
