"""The config's part on losses: one model a term, with the range of each option.

A loss is a mapping of terms, as `{bce: 1.0, lovasz: {weight: 0.5, activation: elu}}`; a number is
short for `{weight: number}`. The formulas: `functional/losses.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distseg.config.fields import NO_BOOL, Chance, Sparse, Strict

Factor = Annotated[float, Field(ge=0, allow_inf_nan=False), NO_BOOL]


def _as_term(value: Any) -> Any:
    """A bare number is a weight; an empty mapping weighs 1."""
    if value is not None and not isinstance(value, dict | Term):
        return {"weight": value}
    return value


class Term(Strict):
    """One loss of the weighted sum."""

    weight: Factor = Field(1.0, description="factor of this loss; 0: not computed")

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the loss function."""
        return self.model_dump(exclude={"weight"})


class Bce(Term):
    """Binary cross-entropy."""

    label_smoothing: Chance = Field(
        0.0, description="share of the label spread evenly over all classes, 0..1"
    )
    pos_weight: Factor | list[Factor] | None = Field(
        None, description="factor on the foreground term, or a list of one per class"
    )


class Overlap(Term):
    """Dice or Jaccard (IoU), as 1 - the fraction."""

    smooth: Factor = Field(0.0, description="pixels added above and below the fraction")


class Boundary(Term):
    """Dice of the bands around the outlines (Cheng et al. 2021)."""

    width: int = Field(2, ge=1, le=50, strict=True, description="pixels of the band to each side")
    smooth: Factor = Field(1.0, description="pixels added below the fraction")


class Focal(Term):
    """Focal loss (Lin et al. 2017)."""

    gamma: Factor = Field(
        2.0, description="how much easy pixels are turned down; 0 is plain cross-entropy"
    )
    alpha: Chance | list[Chance] | None = Field(
        None,
        description="weight of the foreground, 1 - alpha of the background; multiclass: a list",
    )


class Lovasz(Term):
    """Lovasz hinge (Berman et al. 2018)."""

    activation: Literal["relu", "elu"] = Field("relu", description="elu means elu(x) + 1")
    symmetric: bool = Field(
        False, strict=True, description="average with the loss of the complement"
    )


class CrossEntropy(Term):
    """Softmax cross-entropy."""

    label_smoothing: Chance = Field(
        0.0, description="share of the label spread evenly over all classes, 0..1"
    )
    class_weights: list[Factor] | None = Field(None, description="one factor per class")


def _short(model: Any) -> Any:
    """What a term may be written as."""
    return BeforeValidator(_as_term, json_schema_input_type=Factor | model | None)


class LossConfig(Sparse):
    """Weighted sum of losses: name: weight, or name: {weight, options}."""

    bce: Annotated[Bce | None, _short(Bce)] = Field(
        None, description="binary, multilabel: cross-entropy of every pixel and class"
    )
    dice: Annotated[Overlap | None, _short(Overlap)] = Field(
        None, description="1 - Dice of each image and class"
    )
    jaccard: Annotated[Overlap | None, _short(Overlap)] = Field(
        None, description="1 - IoU of each image and class"
    )
    boundary: Annotated[Boundary | None, _short(Boundary)] = Field(
        None, description="1 - Dice of the bands around the outlines; beside a loss of all pixels"
    )
    focal: Annotated[Focal | None, _short(Focal)] = Field(
        None, description="cross-entropy that turns easy pixels down"
    )
    lovasz: Annotated[Lovasz | None, _short(Lovasz)] = Field(
        None, description="binary, multilabel: Lovasz hinge of each image"
    )
    lovasz_softmax: Annotated[Term | None, _short(Term)] = Field(
        None, description="multiclass: Lovasz-softmax of each image"
    )
    cross_entropy: Annotated[CrossEntropy | None, _short(CrossEntropy)] = Field(
        None, description="multiclass: cross-entropy of every pixel"
    )

    @model_validator(mode="after")
    def _weighs(self) -> LossConfig:
        if not any(term.weight > 0 for term in self.terms.values()):
            raise ValueError("needs a loss with a weight above 0, as {bce: 1.0}")
        return self

    @property
    def terms(self) -> dict[str, Term]:
        """The terms that are given, by name."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: term for name, term in found.items() if term is not None}

    @property
    def spec(self) -> dict[str, dict[str, Any]]:
        """What `functional.losses.weighted_sum` takes: {name: {weight, options}}."""
        return {name: term.model_dump() for name, term in self.terms.items()}
