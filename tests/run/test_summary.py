"""The last lines of a run: what makes the submission is not worse in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from distseg.ensemble.fit import fit_ensemble
from distseg.records.files import read_json
from distseg.rounds.choose import choose_final
from distseg.run.summary import LOSES, report
from tests.made_run import made_config, made_run, write_data, write_two_classes


def test_an_ensemble_that_loses_to_a_model_says_so(tmp_path: Path) -> None:
    """Model a alone is much better at x and worse at y, for which y would pay: it stays refused,
    and the end says what that costs."""
    write_two_classes(tmp_path / "data")
    config = made_config(tmp_path / "data", task="multilabel", classes=["x", "y"])
    noise = {"a": np.array([0.2, 2.0]), "b": np.array([9.0, 1.5])}
    options = {name: {"noise": own.reshape(2, 1, 1), "snapshots": 1} for name, own in noise.items()}
    run = made_run(tmp_path, config, **options)
    record = fit_ensemble(config, run, 0)
    against = record["scores"]["against"]["a"]
    assert (
        record["weights"] == {"a": 1, "b": 1} and against["gain"] < -2 * against["standard_error"]
    )
    choose_final(run, 0)
    lines = report(config, run).splitlines()
    place = lines.index(LOSES)
    assert set(lines[place - 1]) == set(lines[place + 2]) == {"!"}
    assert lines[place + 1].startswith(f"a alone scores iou {against['score']:.4f}")
    assert "chosen on the other folds, was refused: class y loses" in lines[place + 1]
    assert next(iter(read_json(run.report_json)["beaten_by"])) == "a"
    assert f"a alone scores {against['score']:.4f}" in run.report_html.read_text()


def test_what_the_config_keeps_together_stays_together(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    config = made_config(tmp_path / "data", ensemble={"simpler": "never"})
    run = made_run(tmp_path, config, a={"noise": 0.2}, b={"noise": 9.0})
    record = fit_ensemble(config, run, 0)
    assert record["scores"]["nested"]["steps"] == [] and record["weights"] == {"a": 1, "b": 1}
    choose_final(run, 0)
    assert LOSES in report(config, run)


def test_an_ensemble_that_gains_says_nothing(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    config = made_config(tmp_path / "data")
    run = made_run(tmp_path, config, noise=1.0)
    record = fit_ensemble(config, run, 0)
    assert all(one["gain"] > 0 for one in record["scores"]["against"].values())
    choose_final(run, 0)
    text = report(config, run)
    assert LOSES not in text and "alone" not in text
