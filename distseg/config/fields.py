"""What the config's models are made of: a strict model, and fields that several of them have."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)


def _no_bool(value: Any) -> Any:
    """pydantic reads true as 1.0; where options are numbers that is a mistake."""
    if isinstance(value, bool):
        raise ValueError("needs a number, not true or false")
    return value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
# Limits stand before it in an Annotated, or the JSON schema loses them.
NO_BOOL = BeforeValidator(_no_bool)
Chance = Annotated[float, Field(ge=0, le=1), NO_BOOL]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Byte = Annotated[int, Field(ge=0, le=255), NO_BOOL]
Color = tuple[Byte, Byte, Byte]  # red, green, blue


class Strict(BaseModel):
    """A frozen model that refuses keys that it does not have."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


def changed_keys(model: Strict) -> set[str]:
    """Keys that are not at their defaults: what somebody has asked for, also in a config.yaml of a
    run, where a program has written out every key."""
    fields = type(model).model_fields
    defaults = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
    return {key for key in fields if getattr(model, key) != defaults[key]}


class Sparse(Strict):
    """A model that is written without the keys that are null."""

    @model_serializer(mode="wrap")
    def _without_null(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if value is not None}


class OneOf(Sparse):
    """A mapping of exactly one key. An empty value means the defaults: `{hflip: null}`."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})
    example: ClassVar[str]  # how a user writes one

    @model_validator(mode="before")
    @classmethod
    def _one_key(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict) or len(value) != 1:
            raise ValueError(f"write it as {cls.example}")
        ((key, options),) = value.items()
        return {key: {} if options is None else options}

    @property
    def given(self) -> tuple[str, Any]:
        """(key, value) of the one key that is given."""
        found = [(key, getattr(self, key)) for key in type(self).model_fields]
        return next((key, value) for key, value in found if value is not None)
