"""The score as a function of the threshold and of the minimum area, and how flat it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.schema import Config
from distseg.functional.bootstrap import standard_error_of_gain
from distseg.functional.combine import sigmoid
from distseg.functional.metrics import VOID, summarize
from distseg.records.errors import UserError
from distseg.records.log import counted

THRESHOLDS = np.arange(1, 40) / 40  # probabilities
AREAS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
DRAWS = 200  # of the bootstrap, at each point of a curve
MAX_CELLS = 1 << 24  # counts that are kept; of more images and classes, evenly spaced images
EQUAL = 1e-9


class RuleCurves:
    """Counts of each image at each threshold, one class after another, in one pass.

    Only threshold and minimum area are looked at: other rules stay out of the curves.
    """

    def __init__(self, config: Config, rule: Mapping[str, Any], num_images: int) -> None:
        """rule: that of the ensemble, thresholds as logits. UserError: it is for other classes."""
        if len(rule["threshold"]) != config.num_outputs:
            raise UserError(
                f"ensemble.json: its rule has {counted(len(rule['threshold']), 'threshold')}, for "
                f"{counted(config.num_outputs, 'class', 'es')}: remove the file, and "
                "`distseg run` makes it again"
            )
        self.config, self.rule = config, rule
        self.chosen = sigmoid(np.array(rule["threshold"], np.float64))  # (C,)
        # the chosen one is a point of its class's curve
        self.grids = [
            np.unique(np.append(THRESHOLDS[np.abs(THRESHOLDS - p) > 1e-6], p)) for p in self.chosen
        ]
        cells = num_images * config.num_outputs * (len(THRESHOLDS) + 1) * 4
        self.step, self.seen = max(1, -(-cells // MAX_CELLS)), 0
        self.counts: list[list[NDArray[np.int32]]] = [[] for _ in self.chosen]

    def add(self, probs_CHW: NDArray[np.float32], target_CHW: NDArray[np.uint8]) -> None:
        """One image: probabilities and truth (0, 1, VOID)."""
        self.seen += 1
        if (self.seen - 1) % self.step:
            return
        for own, grid, probs, target in zip(
            self.counts, self.grids, probs_CHW, target_CHW, strict=True
        ):
            # place p: over the first p thresholds, so the tail from p + 1 on is over threshold p
            place = np.searchsorted(grid, probs, side="left").ravel()
            truth, valid = target.ravel() == 1, target.ravel() != VOID
            tails = [
                np.bincount(place[some], minlength=len(grid) + 1)[::-1].cumsum()[::-1][1:]
                for some in (truth, valid, slice(None))
            ]
            total = np.full(len(grid), int(truth.sum()))
            own.append(np.stack([*tails, total], axis=-1).astype(np.int32))

    def record(self) -> list[dict[str, Any]]:
        """Of each class `threshold` and `min_area`: `values`, `scores`, `chosen` (its place),
        and `flat`: the ends of what scores as the chosen does, or better, by one standard error of
        the paired difference."""
        found = []
        for number, name in enumerate(self.config.classes):
            if not self.counts[number]:
                continue
            counts_NT4 = np.stack(self.counts[number])
            grid, area = self.grids[number], int(self.rule["min_area"][number])
            chosen = int(np.abs(grid - self.chosen[number]).argmin())
            areas = sorted({area, *(a for a in AREAS if a <= counts_NT4[:, chosen, 2].max())})
            at_area = [_ruled(counts_NT4[:, place], area) for place in range(len(grid))]
            at_threshold = [_ruled(counts_NT4[:, chosen], one) for one in areas]
            found.append({
                "class": name,
                "num_images": len(counts_NT4),
                "threshold": self._curve(grid.tolist(), at_area, chosen),
                "min_area": self._curve(areas, at_threshold, areas.index(area)),
            })  # fmt: skip
        return found

    def _curve(
        self, values: Sequence[float], tables: Sequence[NDArray[np.int64]], chosen: int
    ) -> dict[str, Any]:
        metric = self.config.metric
        scores = [summarize(table, metric)["score"] for table in tables]
        best, flat = tables[chosen], [chosen, chosen]
        for side, step in ((0, -1), (1, 1)):
            place = chosen + step
            while 0 <= place < len(values):
                error = standard_error_of_gain(tables[place], best, metric, draws=DRAWS)
                if scores[chosen] - scores[place] > max(error, EQUAL):
                    break
                flat[side], place = place, place + step
        return {"values": list(values), "scores": scores, "chosen": chosen,
                "flat": [values[place] for place in flat]}  # fmt: skip


def _ruled(counts_N4: NDArray[np.int32], area: int) -> NDArray[np.int64]:
    """inter, pred, truth (N, 1, 3) where a mask of fewer than `area` pixels counts as empty."""
    inter, pred, every, truth = counts_N4.astype(np.int64).T
    kept = every >= area
    return np.stack([inter * kept, pred * kept, truth], axis=-1)[:, None]
