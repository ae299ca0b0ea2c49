"""The config's part on sweeps: what `distseg tune` searches, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from distseg.config.fields import Count, Name, Positive, Strict

KINDS = ("uniform", "loguniform", "quniform", "randint", "choice")


class DistributionConfig(Strict):
    """What one key of the config may become: exactly one distribution, and when it is drawn."""

    uniform: tuple[float, float] | None = Field(None, description="[low, high]")
    loguniform: tuple[Positive, Positive] | None = Field(
        None, description="[low, high]; each decade is as likely as the next"
    )
    quniform: tuple[float, float, Positive] | None = Field(
        None, description="[low, high, step]: low, low + step, ... up to high"
    )
    randint: tuple[int, int] | None = Field(None, description="[low, high], both included")
    choice: list[Any] | None = Field(None, min_length=1, description="one of these values")
    when: dict[str, Any] = Field(
        default_factory=dict,
        description="drawn only where these keys, which stand above it in `space`, have these "
        "values; elsewhere the config's own value stays",
    )

    @model_validator(mode="after")
    def _check(self) -> DistributionConfig:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"needs one of {', '.join(KINDS)}; given: {', '.join(given) or None}")
        if self.kind != "choice" and not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"{self.kind}: {list(self.bounds)}: low must be less than high")
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def bounds(self) -> tuple[Any, ...]:
        """Low, high and, of quniform, step; of a choice its values."""
        return tuple(getattr(self, self.kind))

    def values(self) -> list[Any] | None:
        """Every value, ascending; None where they cannot be counted."""
        if self.choice is not None:
            return list(self.choice)
        if self.randint is not None:
            return list(range(self.randint[0], self.randint[1] + 1))
        if self.quniform is not None:
            low, high, step = self.quniform
            return [round(low + i * step, 12) for i in range(int((high - low) / step + 1e-9) + 1)]
        return None

    def ends(self) -> list[Any]:
        """What must be valid for all to be: each choice, or both ends of the range."""
        values = self.values() or list(self.bounds)
        return values if self.choice is not None else [values[0], values[-1]]

    def applies(self, setting: Mapping[str, Any]) -> bool:
        """Whether it is drawn, given what the keys above it became."""
        return all(key in setting and setting[key] == value for key, value in self.when.items())


class TuneConfig(Strict):
    """A sweep: every trial trains the same members on the same folds with other settings."""

    space: dict[str, DistributionConfig] = Field(
        min_length=1, description="dotted key of this config, as stages.0.optimizer.lr: what it "
        "may become",
    )  # fmt: skip
    members: list[Name] | None = Field(None, description="models that a trial trains; null: all")
    folds: list[int] = Field(
        default_factory=lambda: [0],
        min_length=1,
        description="folds that a trial trains, in this order; its score is the mean so far",
    )
    search: Literal["random", "optuna", "grid"] = Field(
        "optuna", description="optuna: TPE, learns from the trials before; grid: all combinations"
    )
    scheduler: Literal["none", "asha", "median"] = Field(
        "none",
        description="asha: at growing epochs only the best 1/reduction_factor go on; median: a "
        "trial under the median of the others' running means ends",
    )
    num_trials: Count = Field(20, description="trials in all; grid: at most")
    time_budget_s: Positive | None = Field(None, description="seconds; null: no limit")
    max_concurrent: Count | None = Field(
        None, description="trials at the same time; null: what the machine or cluster holds"
    )
    grace_epochs: Count = Field(1, description="epochs before a trial may be stopped")
    reduction_factor: float = Field(3.0, gt=1, description="asha: see scheduler")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="seed of the search")
