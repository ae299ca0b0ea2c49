"""The config's part on data: where it lies, how it is divided, what the network sees of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from distseg.config.fields import Color, Count, Name, Positive, Probability, Strict, changed_keys
from distseg.config.layouts import CocoConfig, CsvConfig, LabelmeConfig, YoloConfig

# Decoded, such a picture takes 0.4 GB; some satellite and tissue scans need more, and say so.
MAX_PIXELS = 100_000_000


class FoldsConfig(Strict):
    """How the train set is divided."""

    kind: Literal["stratified", "group", "holdout", "bootstrap", "split", "file"] = Field(
        "stratified",
        description="stratified by mask coverage and emptiness; group: rows of one group stay "
        "together; holdout: fold 0 is `fraction` of the rows, all others train only; bootstrap: "
        "stratified, and each fold trains on rows drawn with replacement; split: fold 0 is the "
        "data set's own validation part, all others train only; file: read `path`",
    )
    num: int = Field(5, ge=1, le=1000, description="number of folds")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of the division")
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


def _refuse_stars(folder: str) -> str:
    parts = folder.split("/")
    stars = [part for part in parts if "*" in part]
    if stars not in ([], ["**"]) or (stars and "{id}" in folder):
        raise ValueError(
            f"{folder!r}: one name of a folder may be `**`, for all folders there, as in train/**"
        )
    return folder


# A folder, of which one part may be `{id}`: a folder for each image; or `**`: all folders there.
Folder = Annotated[str, Field(pattern=r"^([^{}]*\{id\})?[^{}]*$"), AfterValidator(_refuse_stars)]
FilePattern = Annotated[str, Field(pattern=r"^[^/{}]*\{id\}[^/{}]*$")]


class FolderConfig(Strict):
    """Layout of `data.format: folder`, relative to data.root. What is not written here is found by
    the names of the folders and files where these leave no doubt (docs/data.md)."""

    images: Folder = Field(
        "images",
        description="folder of the train images; with `**`, as in `train/**` or "
        "`Train/**/images`, all folders there",
    )
    masks: Folder = Field(
        "masks",
        description="folder of the masks: same stem as the image; with `{id}`, as in "
        "`stage1_train/{id}/masks`, a folder of one mask per object for each image",
    )
    val_images: Folder | None = Field(
        None, description="folder of the data set's own validation part (folds.kind: split)"
    )
    val_masks: Folder | None = Field(None, description="folder of its masks")
    test_images: Folder | None = Field("test_images", description="folder of images to predict")
    image: FilePattern | None = Field(
        None,
        description="how images are named, such as `{id}_training.tif`; null: all count, and "
        "the id is the stem",
    )
    mask: FilePattern | None = Field(
        None, description="how masks are named, such as `{id}_manual1.gif`; null: see mask_suffix"
    )
    test_image: FilePattern | None = Field(None, description="how test images are named, as image")
    mask_suffix: str = Field("", description="what a mask's stem has after the image's stem")
    several: Literal["refuse", "union"] = Field(
        "refuse",
        description="several masks of one image (a_mask.png, a_mask_1.png); union: one per object",
    )
    inverted: bool = Field(False, description="binary masks: 0 is the object")
    threshold: int = Field(
        0, ge=0, le=65534, description="binary masks: values above it are the object (JPEG: 127)"
    )
    numbered: bool = Field(
        False,
        description="binary masks in which each object has a number of its own: every value but 0 "
        "is the object",
    )
    test_masks: Folder | None = Field(
        None, description="truth of the test images, when it is known"
    )
    submission: Literal["masks", "rle"] = Field("masks", description="what a submission is")
    rle_order: Literal["column", "row"] = Field("column", description="how its RLEs count pixels")
    rle_base: Literal[0, 1] = Field(1, description="the number of the first pixel")
    rle_empty: str = Field("", description="what stands for a mask without an object")


class SyntheticConfig(Strict):
    """The data that `data.format: synthetic` makes."""

    num_train: int = Field(96, ge=1, le=1_000_000, description="train images")
    num_test: int = Field(48, ge=0, le=1_000_000, description="test images; their truth is kept")
    height: int = Field(64, ge=16, le=4096, description="pixels")
    width: int = Field(64, ge=16, le=4096, description="pixels")
    channels: Literal[1, 3] = Field(1, description="image channels")
    empty: Probability = Field(0.3, description="share of images without an object")
    noise: Probability = Field(0.0, description="share of train masks that are wrong on purpose")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of the images")


class DataConfig(Strict):
    """Where the data is and what it may look like."""

    format: Literal[
        "tgs", "severstal", "tianchi", "oxford_pet", "camvid", "table", "coco", "yolo",
        "labelme", "folder", "synthetic",
    ] = Field("folder", description="layout of the files: a file of data/formats/")  # fmt: skip
    root: str = Field(".", description="folder of the data set, relative to where you start")
    table: str | None = Field(
        None,
        description="severstal, tianchi, table: the train table; null: its usual name",
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
    colors: dict[Name, Color] | None = Field(
        None,
        description="masks of colors: class name, `background` or `void`: [red, green, blue]; any "
        "other color is a mistake",
    )
    mask_channel: Literal["auto", "color", "alpha"] = Field(
        "auto",
        description="which channel of a mask file says the label; auto: gray or color, and a mask "
        "whose alpha says something else is refused",
    )
    levels: tuple[float, float] | None = Field(
        None,
        description="images of more than 8 bits: the values that become 0 and 255; null: the "
        "lowest and highest of the train images",
    )
    drop_alpha: bool = Field(
        False, description="ignore an alpha channel of images that is not the same all over"
    )
    max_pixels: int = Field(
        MAX_PIXELS,
        ge=1,
        le=10**10,
        description="an image or a mask whose header claims more pixels is refused before any "
        "memory is taken",
    )
    strict: bool = Field(False, description="a bad row stops the run, instead of a quarantine")
    allow_bad: bool = Field(
        False,
        description="go on where more than a tenth of the rows is bad for one reason, or no image "
        "holds one of the classes",
    )
    folds: FoldsConfig = Field(FoldsConfig(), description="how the train set is divided")
    overlap: Literal["refuse", "class"] = Field(
        "refuse",
        description="multiclass, where objects of two classes share a pixel: refuse, or the class "
        "that stands later in `classes` covers the other",
    )
    folder: FolderConfig = Field(FolderConfig(), description="format: folder: where its files lie")
    csv: CsvConfig = Field(CsvConfig(), description="format: table: its files and columns")
    coco: CocoConfig = Field(CocoConfig(), description="format: coco: its files and categories")
    yolo: YoloConfig = Field(YoloConfig(), description="format: yolo: its YAML and names")
    labelme: LabelmeConfig = Field(
        LabelmeConfig(), description="format: labelme: its images and labels"
    )
    synthetic: SyntheticConfig = Field(
        SyntheticConfig(), description="format: synthetic: what is made"
    )
    limit: Count | None = Field(None, description="use the first N train and test rows (a trial)")
    exclude_constant: bool = Field(
        False, description="leave out train images of a single value (TGS has 80 black ones)"
    )
    cache_dir: str | None = Field(
        None, description="folder of the decode cache, shared by runs; null: inside the run"
    )
    feature_cache_gb: float = Field(
        10.0,
        ge=0,
        description="most that the feature maps of frozen encoders may take there, all together, "
        "in 1e9 bytes; maps that find no room are computed in each step. 0: all are",
    )

    def color_map(self, task: str, classes: Sequence[str]) -> dict[Color, int] | None:
        """What each color of a mask file means: a class's number in multiclass, else 1 and up; 0
        is the background and 255 counts nowhere."""
        if self.colors is None:
            return None
        first = 0 if task == "multiclass" else 1
        values = {name: number for number, name in enumerate(classes, start=first)}
        values = {"background": 0, "void": 255, **values}
        return {color: values[name] for name, color in self.colors.items()}

    @property
    def value_map(self) -> dict[int, int] | None:
        """What the values of mask files mean; a trimap's 1 is pet, 2 background, 3 border."""
        if self.mask_values is None and self.format == "oxford_pet":
            return {1: 1, 2: 0, 3: {"pet": 1, "background": 0, "ignore": 255}[self.border]}
        return self.mask_values


# The kinds of `fit` that read a key; an image that is smaller than its crop gets a border, too.
FIT_KEYS: dict[str, tuple[str, ...]] = {
    "scale_to": ("pad",),
    "pad_mode": ("pad", "crop"),
    "random_offset": ("pad", "crop"),
    "foreground": ("crop",),
    "overlap": ("crop",),
}


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

    def mistakes(self, where: str) -> Iterator[str]:
        """What these keys cannot be together, a line each; `where` is this section's key."""
        for key in sorted(changed_keys(self) & FIT_KEYS.keys()):
            if self.fit not in FIT_KEYS[key]:
                value, fits = getattr(self, key), " or ".join(FIT_KEYS[key])
                yield f"{where}.{key}: {value}: needs input.fit: {fits}, not {self.fit}"
        if self.overlap is not None and (self.height % 32 or self.width % 32):
            yield (
                f"{where}.overlap: tiles of {self.height} x {self.width} pixels: they begin at "
                "multiples of 32, and so height and width must be multiples of 32"
            )
        if self.normalize == "train" and (self.mean or self.std):
            yield f"{where}.normalize: train measures mean and std; leave input.mean and .std out"
        if self.pad_mode == "biharmonic" and self.random_offset:
            yield (
                f"{where}.random_offset: pad_mode: biharmonic solves for one place of the image; "
                "use reflect or edge"
            )
        if self.normalize == "median" and self.mean:
            yield f"{where}.normalize: median takes each image's own; leave input.mean out"
        moved = self.fit == "crop" or (self.fit == "pad" and self.pad_mode == "constant")
        if self.normalize == "median" and moved:
            yield (
                f"{where}.normalize: median is that of the canvas: a crop's is not its image's, "
                "and pad_mode: constant moves it; use input.fit: resize, or pad with another "
                "pad_mode"
            )
        for channel_list, key in ((self.mean, "mean"), (self.std, "std")):
            if channel_list is not None and len(channel_list) != self.channels:
                yield f"{where}.{key}: {channel_list}: needs {self.channels} values"
