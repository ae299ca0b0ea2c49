"""The config's part on augmentation: one model a transform, with the range of each option.

Every item of a list is a mapping of one key, as `{hflip: {p: 0.5}}`. What the transforms do:
docs/augment.md; how: `data/augment.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from distseg.config.fields import NO_BOOL, Chance, OneOf, Strict

Range = tuple[float, float]
MOVES = ("hflip", "vflip", "rot90", "transpose", "affine")  # straight lines stay straight
SYMMETRIC = "[low, high]; one number s is short for [-s, s]"


def _as_range(value: Any, low: float, high: float) -> Any:
    """(low, high) of a pair of numbers; of one number s (-s, s) where negative values are valid."""
    if not isinstance(value, list | tuple):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and low < 0):
            raise ValueError(f"needs [low, high], with values of {low:g} to {high:g}")
        value = (-abs(value), abs(value))
    if len(value) != 2 or any(isinstance(n, bool | str) for n in value):
        raise ValueError("needs two numbers, [low, high]")
    if not low <= value[0] <= value[1] <= high:
        raise ValueError(f"needs [low, high] with {low:g} <= low <= high <= {high:g}")
    return tuple(value)


def within(low: float, high: float) -> BeforeValidator:
    """What makes a field of type Range take ranges inside of [low, high]."""
    one = Annotated[float, Field(ge=low, le=high)]
    form: Any = tuple[one, one]
    if low < 0:
        form = form | one
    return BeforeValidator(
        functools.partial(_as_range, low=low, high=high), json_schema_input_type=form
    )


class Transform(Strict):
    """What every transform has."""

    p: Chance = Field(0.5, description="probability of applying it to an image, 0..1")


class Symmetry(Transform):
    """A flip or a turn: nothing but its probability."""


class Affine(Transform):
    """Scale, move, turn and shear; each is drawn from its range."""

    scale: Annotated[Range, within(0.05, 20)] = Field(
        (1.0, 1.0), description="factor, the same for both sides: [low, high]"
    )
    translate: Annotated[Range, within(-1, 1)] = Field(
        (0.0, 0.0), description=f"share of the width and of the height: {SYMMETRIC}"
    )
    rotate: Annotated[Range, within(-180, 180)] = Field(
        (0.0, 0.0), description=f"degrees: {SYMMETRIC}"
    )
    shear: Annotated[Range, within(-80, 80)] = Field(
        (0.0, 0.0), description=f"degrees: {SYMMETRIC}"
    )


class BrightnessContrast(Transform):
    """Gray values: a value added, and a factor about the middle."""

    brightness: Annotated[Range, within(-1, 1)] = Field(
        (-0.2, 0.2), description=f"added, as a share of the full range: {SYMMETRIC}"
    )
    contrast: Annotated[Range, within(-1, 1)] = Field(
        (-0.2, 0.2), description=f"factor 1 + value: {SYMMETRIC}"
    )


class Gamma(Transform):
    """Gray values, 0..1, to a power."""

    gamma: Annotated[Range, within(0.01, 10)] = Field(
        (0.8, 1.2), description="exponent: [low, high]"
    )


class Cutout(Transform):
    """Rectangles of one gray value; the mask stays."""

    holes: int = Field(1, ge=1, le=64, strict=True, description="up to so many rectangles")
    size: Annotated[Range, within(0.001, 1)] = Field(
        (0.1, 0.25), description="their sides, as a share of the image's: [low, high]"
    )
    fill: int = Field(0, ge=0, le=255, strict=True, description="their gray value, 0..255")


class Elastic(Transform):
    """Smooth random displacements."""

    # albumentations shrinks its noise to -1..1 and blurs it before alpha: 120 moves by 2 pixels
    alpha: Annotated[float, Field(ge=0, le=10000), NO_BOOL] = Field(
        120.0, description="greatest displacement before smoothing, in pixels"
    )
    sigma: Annotated[float, Field(ge=1, le=1000), NO_BOOL] = Field(
        6.0, description="smoothing of the displacement, in pixels"
    )


class GridDistortion(Transform):
    """The cells of a grid are stretched."""

    steps: int = Field(5, ge=1, le=64, strict=True, description="cells along a side")
    distort: Annotated[Range, within(-1, 1)] = Field(
        (-0.3, 0.3), description=f"how far a border moves, as a share of the cell: {SYMMETRIC}"
    )


class Blur(Transform):
    """A Gaussian blur."""

    sigma: Annotated[Range, within(0.01, 50)] = Field(
        (0.5, 1.5), description="of a Gaussian, in pixels: [low, high]"
    )


class Noise(Transform):
    """Gaussian noise on every value."""

    std: Annotated[Range, within(0, 1)] = Field(
        (0.02, 0.08), description="of Gaussian noise, as a share of the full range: [low, high]"
    )


class Named(Transform):
    """A transform of albumentations by its own name: `p`, and its own arguments."""

    model_config = ConfigDict(extra="allow")

    @property
    def arguments(self) -> dict[str, Any]:
        """All but `p`, which is ours."""
        return dict(self.model_extra or {})


class AugmentConfig(OneOf):
    """One augmentation: exactly one of these keys, or `A.NAME`, a transform of albumentations."""

    # An editor must take `A.CLAHE`, which the model reads as the key CLAHE of `A`.
    model_config = ConfigDict(
        json_schema_extra={
            "minProperties": 1,
            "maxProperties": 1,
            "patternProperties": {r"^A\.[A-Z]\w*$": {"type": ["object", "null"]}},
        }
    )
    example = "{hflip: {p: 0.5}}"

    preset: Literal["severstal", "oxford_pet", "tianchi", "tgs_winners"] | None = Field(
        None, description="stands for the list of a published recipe (docs/augment.md)"
    )
    hflip: Symmetry | None = Field(None, description="left and right change places")
    vflip: Symmetry | None = Field(None, description="top and bottom change places")
    rot90: Symmetry | None = Field(None, description="one, two or three quarter turns")
    transpose: Symmetry | None = Field(None, description="rows become columns")
    affine: Affine | None = Field(None, description="scale, move, turn and shear")
    brightness_contrast: BrightnessContrast | None = Field(None, description="gray values")
    gamma: Gamma | None = Field(None, description="gray values to a power")
    cutout: Cutout | None = Field(None, description="rectangles of one gray value")
    elastic: Elastic | None = Field(None, description="smooth random displacements")
    grid_distortion: GridDistortion | None = Field(None, description="the cells of a grid move")
    blur: Blur | None = Field(None, description="a Gaussian blur")
    noise: Noise | None = Field(None, description="Gaussian noise")
    A: dict[str, Named] | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="written `A.NAME`: any transform of albumentations, with its own arguments",
    )

    @model_validator(mode="before")
    @classmethod
    def _split_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) == 1:
            ((key, options),) = value.items()
            if isinstance(key, str) and key.startswith("A."):
                return {"A": {key.removeprefix("A."): {} if options is None else options}}
        return value

    @model_serializer(mode="wrap")
    def _join_name(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = {key: value for key, value in dump(self).items() if value is not None}
        named = found.pop("A", {})
        return found | {f"A.{name}": options for name, options in named.items()}


def transforms(steps: Sequence[AugmentConfig]) -> Iterator[tuple[str, Transform]]:
    """(name, options) of each transform in order; a preset stands for its own."""
    for step in steps:
        name, options = step.given
        if name == "preset":
            yield from transforms(PRESETS[options])
        elif name == "A":
            yield from ((f"A.{own}", arguments) for own, arguments in options.items())
        else:
            yield name, options


# What the published recipes say (docs/augment.md).
_RECIPES: dict[str, list[dict[str, Any]]] = {
    "severstal": [{"hflip": {}}],
    "oxford_pet": [{"hflip": {}}, {"vflip": {}}],
    "tianchi": [{"hflip": {}}, {"vflip": {}}, {"rot90": {}}],
    "tgs_winners": [
        {"hflip": {}},
        {"affine": {"scale": [0.4, 1.6], "translate": 0.16, "p": 0.5}},
        {"brightness_contrast": {"brightness": 0.2, "contrast": 0.2, "p": 0.5}},
        {"gamma": {"p": 0.2}},
        {"elastic": {"p": 0.2}},
        {"cutout": {"p": 0.2}},
    ],
}
PRESETS = {
    name: [AugmentConfig.model_validate(step) for step in steps] for name, steps in _RECIPES.items()
}
