"""Which rule should say whether a tuned choice is adopted: regret on rows that are held back.

    python benchmarks/adoption.py RUN [RUN ...] --out benchmarks/results/adoption

RUN is a folder of `distseg run`, or of benchmarks/made_members.py; of a run with several rounds all
are taken together. Its out-of-fold rows are drawn, fold by fold, into those that tune and those
that are held back. On the former each step of the tuning (weights, threshold and area, something
simpler, ...) is made as `distseg run` makes it, nested by fold, from equal weights and threshold
.5. A rule then adopts what was found, or does not, from what the nested scores say. The held-back
rows say what that was worth: the regret of a decision is the score that the better of the two
choices has there, less that of the one that the rule takes. `optimism` is what the nested scores of
the adopted steps promise more than the held-back rows give. All are in thousandths of the metric.
A last table is of the whole selection, as `distseg run` makes it with its own rule: what it gains
on the held-back rows, how much more its nested score promises (what a run prints), and how much
more the same choice promises on the rows that it was made on. Draws share their rows: the standard
errors are those of independent draws, and so too small.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distseg.config.load import load_config
from distseg.config.schema import Config
from distseg.ensemble.choices import ALL, Choices, EnsembleChoice
from distseg.ensemble.nesting import Nesting, split_rows, tune_in_steps
from distseg.ensemble.out_of_fold_set import OutOfFold
from distseg.ensemble.steps import steps_of
from distseg.functional.bootstrap import standard_error_of_gain
from distseg.functional.metrics import TIE, summarize
from distseg.functional.postprocess import default_rule
from distseg.functional.verdict import class_scores, split_scores
from distseg.records.paths import ALL_ROUNDS, Run

SEARCHED = {"threshold": "search", "min_area": "search"}
PICKS = 5  # of the greedy weights: what takes the time
Decision = dict[str, Any]
WHOLE = "whole selection"


def gain_over(factor: float) -> Callable[[Decision], bool]:
    """The gain is over `factor` of its paired standard error."""
    return lambda d: d["gain"] > max(TIE, factor * d["error"])


def no_class_loses(rule: Callable[[Decision], bool], factor: float) -> Callable[[Decision], bool]:
    """And no class loses more than `factor` of the paired standard error of its own change."""
    return lambda d: rule(d) and all(c >= -TIE - factor * e for c, e in d["classes"])


RULES: dict[str, Callable[[Decision], bool]] = {
    "never": lambda d: False,
    "no fold and no class loses": lambda d: (
        d["gain"] > TIE and min(d["folds"]) >= -TIE and min(c for c, _ in d["classes"]) >= -TIE
    ),
    "gain > 0": gain_over(0.0),
    "gain > SE / 4": gain_over(0.25),
    "gain > SE / 2 (the gain shrunken by half its SE)": gain_over(0.5),
    "gain > SE": gain_over(1.0),
    "gain > 2 SE": gain_over(2.0),
    "gain > 0, no class loses": no_class_loses(gain_over(0.0), 0.0),
    "gain > 0, no class loses over its SE": no_class_loses(gain_over(0.0), 1.0),
    "gain > SE / 2, no class loses over its SE": no_class_loses(gain_over(0.5), 1.0),
    "gain > SE, no class loses over its SE": no_class_loses(gain_over(1.0), 1.0),
}


def searching(config: Config) -> Config:
    """The run's config with all steps in it."""
    post = config.postprocess.model_copy(update=SEARCHED)
    ensemble = config.ensemble.model_copy(update={"weights": "search", "max_picks": PICKS})
    return config.model_copy(update={"postprocess": post, "ensemble": ensemble})


def decisions(folder: Path, share: float, seed: int) -> list[Decision]:
    """One draw: what each step's nested scores say, and what it is worth on the rows held back."""
    run, rng = Run(folder), np.random.default_rng(seed)
    config = searching(load_config(run.config))
    together = run.ensemble(ALL_ROUNDS).is_file()
    oof = OutOfFold(config, run, ALL_ROUNDS if together else 0)
    tuning: dict[str, list[int]] = {}
    held: list[int] = []
    for label, rows in split_rows(oof).items():
        order = rng.permutation(rows).tolist()
        size = max(1, round(share * len(rows)))
        tuning[label] = sorted(order[:size])
        held += order[size:]
    nesting = Nesting(config, oof, tuning)
    rule = default_rule(config.postprocess, config.num_outputs)
    start: Choices = dict.fromkeys(
        nesting.labels, EnsembleChoice(config.ensemble.space, oof.uniform, rule)
    )
    before, before_held = nesting.score(start), _counts(nesting, held, start)
    found = []
    for name, tune in steps_of(nesting):
        tuned = tune(start)
        after = nesting.score(tuned)
        after_held = _counts(nesting, held, tuned)
        found.append(
            {
                "step": name.partition(" of ")[0],
                "rows": len(nesting.rows),
                "gain": _score(after, config) - _score(before, config),
                "error": standard_error_of_gain(after, before, config.metric, seed=seed),
                "folds": _fold_changes(nesting, before, after),
                "classes": list(_class_changes(before, after, config)),
                "held": _score(after_held, config) - _score(before_held, config),
            }
        )
    choices, counts, steps = tune_in_steps(nesting, start, before, steps_of(nesting))
    promised, default = _score(counts, config), _score(before, config)
    came = _score(_counts(nesting, held, choices), config) - _score(before_held, config)
    own = _score(_counts(nesting, nesting.rows, choices), config)
    found.append(
        {
            "step": WHOLE,
            "adopted": sum(step["adopted"] for step in steps),
            "came": came,
            "nested": promised - default - came,
            "own": own - default - came,
        }
    )
    return found


def _counts(nesting: Nesting, rows: list[int], choices: Choices) -> NDArray[np.int64]:
    return np.stack([nesting.count(row, choices[ALL]) for row in rows])


def _score(counts: NDArray[np.int64], config: Config) -> float:
    return float(summarize(counts, config.metric)["score"])


def _fold_changes(nesting: Nesting, before: NDArray, after: NDArray) -> list[float]:
    metric = nesting.config.metric
    old, new = (split_scores(counts, nesting.split_of, metric) for counts in (before, after))
    return [new[label] - old[label] for label in old]


def _class_changes(
    before: NDArray, after: NDArray, config: Config
) -> Iterator[tuple[float, float]]:
    """(change, its paired standard error) of each class."""
    old, new = (class_scores(c, config.classes, config.metric) for c in (before, after))
    for number, name in enumerate(config.classes):
        if old[name] is None or new[name] is None:
            continue
        own = slice(number, number + 1)
        change = float(new[name]) - float(old[name])  # type: ignore[arg-type]
        error = 0.0
        if change < -TIE:
            error = standard_error_of_gain(after[:, own], before[:, own], config.metric, draws=200)
        yield change, error


def table(found: list[Decision]) -> list[dict[str, Any]]:
    """For each rule what its decisions come to; all in thousandths of the metric."""
    rows = []
    for name, rule in RULES.items():
        taken = np.array([rule(d) for d in found])
        held, gain = (np.array([d[key] for d in found]) * 1000 for key in ("held", "gain"))
        regret = np.maximum(held, 0) - np.where(taken, held, 0)
        rows.append(
            {
                "rule": name,
                "adopted": float(taken.mean()),
                "regret": float(regret.mean()),
                "regret_error": float(regret.std(ddof=1) / np.sqrt(len(regret))),
                "worst": max(0.0, float(-np.where(taken, held, 0).min())),
                "won": float(np.where(taken, held, 0).mean()),
                "optimism": float((gain - held)[taken].mean()) if taken.any() else 0.0,
            }
        )
    return rows


def text(title: str, found: list[Decision]) -> str:
    lines = [f"{title}: {len(found)} decisions", ""]
    lines += [
        "| rule | adopted | won | regret | worst loss | optimism |",
        "|---|---|---|---|---|---|",
    ]
    for row in table(found):
        lines.append(
            f"| {row['rule']} | {row['adopted']:.0%} | {row['won']:+.2f} | {row['regret']:.2f} ± "
            f"{row['regret_error']:.2f} | {row['worst']:.1f} | {row['optimism']:+.2f} |"
        )
    return "\n".join(lines) + "\n"


def selection(everything: dict[str, list[Decision]]) -> list[dict[str, Any]]:
    """By run, in thousandths: what the whole selection gains on the rows held back, and how much
    more its scores promise, with standard errors over the draws."""
    rows = []
    for name, found in everything.items():
        row: dict[str, Any] = {"run": name, "draws": len(found)}
        for key in ("came", "nested", "own"):
            values = 1000 * np.array([d[key] for d in found])
            row[key] = float(values.mean())
            row[f"{key}_error"] = float(values.std(ddof=1) / np.sqrt(len(values)))
        rows.append(row)
    return rows


def selection_text(rows: list[dict[str, Any]]) -> str:
    lines = [
        "The whole selection: what it gained on held-back rows, and what more was promised",
        "",
        "| run | draws | gained | more promised, nested | more promised on its own rows |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{row[k]:+.1f} ± {row[f'{k}_error']:.1f}" for k in ("came", "nested", "own")]
        lines.append(f"| {row['run']} | {row['draws']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.25, 0.5])
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    everything: dict[str, list[Decision]] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = {
            (run.name, share, seed): pool.submit(decisions, run, share, seed)
            for run in options.runs for share in options.shares for seed in range(options.draws)
        }  # fmt: skip
        for (name, _, _), job in jobs.items():
            everything.setdefault(name, []).extend(job.result())
    wholes = {name: [d for d in f if d["step"] == WHOLE] for name, f in everything.items()}
    wholes["all"] = [d for found in wholes.values() for d in found]
    everything = {n: [d for d in f if d["step"] != WHOLE] for n, f in everything.items()}
    together = [d for found in everything.values() for d in found]
    page = [text(name, found) for name, found in everything.items()]
    steps = dict.fromkeys(d["step"] for d in together)
    page += [text(f"step {step}", [d for d in together if d["step"] == step]) for step in steps]
    page += [text("all", together), selection_text(selection(wholes))]
    print("\n".join(page))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {n: table(f) for n, f in {**everything, "all": together}.items()}
    record[WHOLE] = selection(wholes)
    options.out.with_suffix(".md").write_text("\n".join(page))
    options.out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
