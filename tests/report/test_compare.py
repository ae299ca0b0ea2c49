"""Runs side by side: paired differences, images and keys that differ, a page of one file."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distseg
from distseg import cli
from distseg.config.load import dump_config
from distseg.ensemble.fit import fit_ensemble
from distseg.functional.bootstrap import paired_difference
from distseg.functional.metrics import summarize
from distseg.records.errors import UserError
from distseg.records.files import read_json
from distseg.records.oof_table import read_counts
from distseg.records.paths import Run
from distseg.records.tables import read_rows, write_table
from distseg.report.compare import text
from distseg.report.page import ticks
from distseg.rounds.choose import choose_final
from tests.made_run import made_config, made_run, write_data, write_two_classes
from tests.report.test_report import Tags


def made(folder: Path, noise: float, **changes: Any) -> Path:
    """A run of made-up members over the data beside it."""
    config = made_config(folder.parent / "data", **changes)
    run = made_run(folder, config, noise=noise)
    (run.folder / "config.yaml").write_text(dump_config(config))
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
    run.folder.rename(folder.parent / f"{folder.name}_run")
    return folder.parent / f"{folder.name}_run"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    write_data(tmp_path / "data")
    return made(tmp_path / "noisy", 2.0), made(tmp_path / "clean", 0.8, seed=3)


def test_the_difference_is_paired(pair: tuple[Path, Path]) -> None:
    record = distseg.compare_runs(*pair)
    (found,) = record["pairs"]
    scores = [distseg.load_run(folder).score for folder in pair]
    assert found["difference"] == pytest.approx(scores[1] - scores[0])
    assert (found["common"], found["only_first"], found["only_other"]) == (24, 0, 0)
    assert found["low"] < found["difference"] < found["high"] and found["low"] > 0
    assert found["better"] + found["worse"] <= 24 and found["better"] > found["worse"]
    changes = [one["now"] - one["before"] for one in found["gained"]]
    assert changes == sorted(changes, reverse=True) and changes[0] > 0
    assert record["config"] == {"seed": [0, 3]}
    assert [one["label"] for one in record["runs"]] == ["noisy_run", "clean_run"]
    shown = text(record)
    assert "clean_run is better than noisy_run" in shown and "seed: 0 | 3" in shown
    same = text(distseg.compare_runs(pair[0], pair[0]))
    assert "cannot be told apart on 24 images" in same and "differs" not in same


def test_an_image_adds_its_part_to_both() -> None:
    """Scores that go up and down together: paired, their difference has no error at all."""
    rng = np.random.default_rng(0)
    inter = rng.integers(0, 100, 60)
    counts = np.stack([inter, np.full(60, 100), np.full(60, 100)], axis=-1)[:, None]
    found = paired_difference(counts, counts, "dice")
    assert found == {"difference": 0.0, "standard_error": 0.0, "low": 0.0, "high": 0.0}
    better = counts + np.array([5, 0, 0])
    found = paired_difference(better, counts, "dice")
    assert found["difference"] == pytest.approx(0.05) and found["standard_error"] < 1e-9
    drawn = rng.integers(60, size=(4000, 60))
    noisy = np.clip(counts + rng.integers(-30, 31, (60, 1, 1)) * np.array([1, 0, 0]), 0, 100)
    for metric in ("dice", "miou"):
        loop = [
            summarize(noisy[d], metric)["score"] - summarize(counts[d], metric)["score"]
            for d in drawn
        ]
        found = paired_difference(noisy, counts, metric, draws=4000)
        assert found["standard_error"] == pytest.approx(np.std(loop), rel=0.1)
        assert [found["low"], found["high"]] == pytest.approx(
            list(np.quantile(loop, (0.025, 0.975))), abs=3 * np.std(loop) / 20
        )


def test_images_of_one_run_alone_and_of_other_labels_are_left_out(pair: tuple[Path, Path]) -> None:
    table = Run(pair[1]).oof_table(0)
    rows = read_rows(table)
    rows[0]["truth"] = str(int(rows[0]["truth"]) + 1)
    rows[1]["id"] = "another"
    write_table(table, list(rows[0]), [list(row.values()) for row in rows[:-2]])
    (found,) = distseg.compare_runs(*pair)["pairs"]
    expected = {"common": 20, "only_first": 3, "only_other": 1, "other_truth": 1}
    assert {key: found[key] for key in expected} == expected
    before, now = (read_counts(Run(folder).oof_table(0)) for folder in pair)
    names = [row["id"] for row in rows[2:-2]]
    for key, counts in (("before", before), ("now", now)):
        table_of = np.stack([counts[name] for name in names])
        assert found[key] == pytest.approx(summarize(table_of, "iou")["score"])
    shown = text(distseg.compare_runs(*pair))
    assert "left out: 3 images only in noisy_run" in shown and "with other labels" in shown


def test_the_page(pair: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["compare", *map(str, pair), "--out", str(tmp_path / "out")]) == 0
    assert "written: " in capsys.readouterr().out
    assert read_json(tmp_path / "out" / "compare.json") == distseg.compare_runs(*pair)
    page = (tmp_path / "out" / "compare.html").read_text()
    tags = Tags(page)
    assert tags.open == [] and not re.search(r"https?://|@import|url\(", page)
    assert sum(tag == "circle" for tag, _ in tags.found) == 24
    pictures = sum(tag == "img" for tag, _ in tags.found)
    assert 6 <= pictures <= 12 and "clean_run is better than noisy_run" in page
    for member in (Run(pair[1]).round(0) / "members").iterdir():
        shutil.rmtree(member / "oof")
    assert cli.main(["compare", *map(str, pair), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "<img" not in page and "No pictures: " in page


def test_mistakes(pair: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(UserError, match="needs two runs"):
        distseg.compare_runs(pair[0])
    assert cli.main(["compare", str(pair[0]), str(tmp_path)]) == 2
    assert "no run here" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "data")
    write_two_classes(tmp_path / "data")
    changes: dict[str, Any] = {"task": "multilabel", "classes": ["x", "y"]}
    other = made(tmp_path / "other", 1.0, **changes)
    with pytest.raises(UserError, match="other_run: task: multilabel, but noisy_run has binary"):
        distseg.compare_runs(pair[0], other)


def test_ticks_are_round() -> None:
    for low, high in ((0, 1), (0.31, 0.77), (3, 1234), (-2e-5, 7e-5), (0.9153, 0.9154)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 5 and low - 1e-12 <= found[0] and found[-1] <= high + 1e-12
        steps = np.diff(found)
        assert np.allclose(steps, steps[0])
        mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
        assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-6
    assert ticks(4, 4) == [4]
