"""What each part brought, what the score hangs on, and where it comes from, checked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from distseg.ensemble.fit import fit_ensemble
from distseg.functional.metrics import count_masks, summarize
from distseg.functional.postprocess import to_masks
from distseg.records.files import read_json
from distseg.records.manifest import Manifest
from distseg.records.oof_table import read_counts
from distseg.records.paths import Run
from distseg.report.gains import gain_records
from distseg.report.images import Measured
from distseg.report.intervals import group_records, intervals
from distseg.report.pictures import selection_sheets
from distseg.report.rule_curves import RuleCurves
from distseg.rounds.choose import choose_final
from distseg.run.submission_pictures import submission_pictures
from distseg.run.summary import write_report
from tests.made_run import made_config, made_run, write_data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Run, dict[str, Any]]:
    """Two models of two snapshots, the second much noisier, with a second round's ensemble."""
    folder = tmp_path_factory.mktemp("parts")
    write_data(folder / "data")
    data = {"format": "folder", "root": str(folder / "data"), "folds": {"num": 3},
            "folder": {"submission": "rle"}}  # fmt: skip
    config = made_config(
        folder / "data", data=data, predict={"tta": ["hflip"]},
        rounds=[{"kind": "supervised"}, {"kind": "self_distill"}],
        postprocess={"threshold": 0.5, "min_area": 3}, ensemble={"simpler": "never"},
    )  # fmt: skip
    run = made_run(folder, config, a={"noise": 0.8}, b={"noise": 3.0})
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
    sheet = run.select(1) / "labeled_dropped_fold0.png"
    sheet.parent.mkdir(parents=True)
    cv2.imwrite(str(sheet), np.full((40, 60, 3), 90, np.uint8))
    (run.select(1) / "labeled_kept_fold0.png").write_bytes(b"no picture")
    names = [sample.id for sample in Manifest.read(run.data / "test.csv")]
    lines = [f"{name},{'1 12' if number else ''}" for number, name in enumerate(names)]
    run.submission.write_text("\n".join(["id,rle_mask", *lines]) + "\n")
    return config, run, write_report(config, run)


def test_a_model_brings_what_the_others_lack(made: tuple[Any, Run, dict[str, Any]]) -> None:
    """Without b, a alone is scored by the same rules; its counts are had from its own logits."""
    config, run, record = made
    found = {one["name"]: one for one in record["gains"] if one["kind"] == "models"}
    assert set(found) == {"a", "b"} and found["a"]["low"] > 0, "a is what carries the ensemble"
    ensemble = read_json(run.ensemble(0))
    oof = read_counts(run.oof_table(0))
    manifest, counts = Manifest.read(run.truth), []
    from distseg.data.prepare import open_cache
    from distseg.records.predictions import Predictions

    cache = open_cache(config, run)
    for fold in manifest.folds:
        own = Predictions(run.member(0, "a", fold).oof)
        for row in manifest.val_rows(fold):
            name = manifest[row].id
            masks = to_masks(np.asarray(own.of(name), np.float32), ensemble["rule"], config.task)
            counts.append(count_masks(masks, cache.target(name), 1, config.task))
    alone = summarize(np.stack(counts), config.metric)["score"]
    whole = summarize(np.stack(list(oof.values())), config.metric)["score"]
    assert found["b"]["difference"] == pytest.approx(whole - alone)
    assert found["b"]["num_images"] == len(counts) == 24


def test_tta_and_snapshots_are_paired_on_the_tables(
    made: tuple[Any, Run, dict[str, Any]],
) -> None:
    config, run, record = made
    tables: dict[str, list[Any]] = {"mean_tta": [], "mean_plain": [], "snapshot_1_tta": []}
    for fold in range(3):
        variants = read_json(run.member(0, "a", fold).oof_scores)["variants"]
        for key, rows in tables.items():
            rows += variants[key]
    scores = {
        key: summarize(np.array(rows).reshape(len(rows), -1, 3), config.metric)["score"]
        for key, rows in tables.items()
    }
    found = {one["name"]: one["difference"] for one in record["gains"]}
    tta = next(one for one in record["gains"] if one["kind"] == "tta" and one["name"] == "a")
    assert tta["difference"] == pytest.approx(scores["mean_tta"] - scores["mean_plain"])
    last = found["a: mean of 2 over the last"]
    assert last == pytest.approx(scores["mean_tta"] - scores["snapshot_1_tta"])
    assert "a: snapshot 2 over 1" in found


def test_lost_tables_are_left_out(made: tuple[Any, Run, dict[str, Any]], tmp_path: Path) -> None:
    config, run, _ = made
    ensemble = read_json(run.ensemble(0))
    del ensemble["scores"]["without"]  # as runs of earlier versions have none
    kinds = {one["kind"] for one in gain_records(config, Run(tmp_path), ensemble, [0, 1, 2])}
    assert kinds == set()
    assert gain_records(config, run, ensemble, [0, 1, 2])


def test_curves_are_what_each_rule_scores() -> None:
    """Each point of both curves against masks that are made with that very rule."""
    rng = np.random.default_rng(0)
    config = made_config(Path("nowhere"), metric="dice")
    rule = {"threshold": [0.3], "min_area": [12]}
    curves, images = RuleCurves(config, rule, 9), []
    for number in range(9):
        truth = (rng.random((1, 9, 8)) < 0.1 * number).astype(np.uint8)
        truth[:, :2] = 255 if number % 2 else truth[:, :2]
        logits = (2.0 * (truth == 1) - 1 + 1.5 * rng.standard_normal(truth.shape)).astype("f4")
        curves.add(1 / (1 + np.exp(-logits)), truth)
        images.append((logits, truth))
    (found,) = curves.record()

    def score(threshold: float, area: int) -> float:
        own = {**rule, "threshold": [threshold], "min_area": [area]}
        counts = [
            count_masks(to_masks(logits, own, "binary"), truth, 1, "binary")
            for logits, truth in images
        ]
        return float(summarize(np.stack(counts), "dice")["score"])

    values = found["threshold"]["values"]
    chosen = found["threshold"]["chosen"]
    assert values[chosen] == pytest.approx(1 / (1 + np.exp(-0.3)))
    for value, said in zip(values, found["threshold"]["scores"], strict=True):
        assert said == pytest.approx(score(float(np.log(value / (1 - value))), 12)), value
    areas = found["min_area"]
    assert areas["values"][areas["chosen"]] == 12
    for value, said in zip(areas["values"], areas["scores"], strict=True):
        assert said == pytest.approx(score(0.3, value)), value
    low, high = found["threshold"]["flat"]
    assert low <= values[chosen] <= high


def test_every_image_is_in_one_group_of_each_kind(
    made: tuple[Any, Run, dict[str, Any]],
) -> None:
    _, _, record = made
    images = record["images"]
    for key in ("by_size", "by_number"):
        groups = images[key]
        assert sum(one["num_images"] for one in groups) == 24
        mean = sum(one["score"] * one["num_images"] for one in groups) / 24
        assert mean == pytest.approx(record["score"]), "iou is a mean over images"
    assert images["by_size"][0]["name"] == "no object"
    assert [one["name"] for one in images["by_number"]][:2] == ["0 objects", "1 object"]
    few = group_records([{"score": 0.5, "area": 7, "objects": None}])
    assert few == {"by_size": [{"name": "7 pixels", "num_images": 1, "score": 0.5,
                                "standard_error": None}], "by_number": []}  # fmt: skip
    assert Measured([]).record([])["by_size"] == []


def test_a_scale_holds_all_its_marks() -> None:
    rows = [{"value": v, "low": v - e, "high": v + e} for v, e in ((0.1, 0.2), (-0.4, 0.0))]
    chart = intervals(rows, 0.0)
    for row in chart["rows"]:
        assert 0 <= row["left"] <= row["at"] <= row["left"] + row["width"] + 0.01 <= 100
    assert 0 < chart["line"] < 100
    assert intervals([{"value": 0.0, "low": 0.0, "high": 0.0}], 0.0)["rows"][0]["at"] == 50


def test_test_images_have_the_masks_of_the_submission(
    made: tuple[Any, Run, dict[str, Any]],
) -> None:
    """One is empty; in the others a column of 12 pixels, of 10, is covered."""
    config, run, _ = made
    shown = submission_pictures(config, run)
    assert [one["share"] for one in shown] == pytest.approx([0.0, 0.1, 0.1, 0.1])
    text = run.report_html.read_text(encoding="utf-8")
    assert all(f'alt="test image {one["id"]}"' in text for one in shown)


def test_the_page_shows_sheets_and_what_is_not_default(
    made: tuple[Any, Run, dict[str, Any]],
) -> None:
    config, run, _ = made
    (sheet,) = selection_sheets(config, run)
    assert (sheet["round"], sheet["fold"], sheet["end"]) == (1, 0, "dropped")
    text = run.report_html.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,/9j/") >= 1
    assert '<td>metric</td><td class="text">iou</td>' in text
    assert "<td>train.batch_size</td>" not in text, "it is at its default"
