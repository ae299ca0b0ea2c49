"""The last lines of a run: what makes the submission is not worse in silence."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np

from distseg import cli  # noqa: F401  it fills the table of commands
from distseg.arguments import make_parser
from distseg.config.load import load_config
from distseg.ensemble.fit import fit_ensemble
from distseg.records.files import read_json, write_json
from distseg.records.paths import find_run
from distseg.rounds.choose import choose_final
from distseg.run.changes import find_changes
from distseg.run.ending import member_lines, submission_lines
from distseg.run.summary import LOSES, report
from tests.jobs.driver import scripted
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
    assert LOSES not in text and "the ensemble loses" not in text
    best = max(record["scores"]["against"].items(), key=lambda item: item[1]["score"])
    if len([name for name in record["scores"]["against"] if "#" not in name]) > 1:
        assert f"the ensemble gains {best[1]['gain']:+.4f}" in text


def test_the_end_tells_members_choices_time_rows_and_what_may_follow(trained: Path) -> None:
    run = find_run(trained)
    config, record = load_config(run.config), read_json(run.final)
    lines = report(config, run).splitlines()
    done = read_json(run.member(0, "plain", 1).done)
    row = next(line for line in lines if line.startswith("plain") and line.split()[1] == "1")
    assert f"{done['score']:.4f}" in row and " 2 " in row
    for step in record["scores"]["nested"]["steps"]:
        start = "adopted: " if step["adopted"] else "refused: "
        assert any(line.startswith(start) and step["step"] in line for line in lines), step
    (time,) = [line for line in lines if line.startswith("time: ")]
    assert "training and out-of-fold prediction" in time and "test prediction" in time
    assert any(line.startswith("the submission has 5 rows, ") for line in lines)
    text = run.next_commands.read_text()
    assert text.splitlines() == lines[-len(text.splitlines()) :]
    for line in text.splitlines():
        if line.startswith("distseg "):
            words = shlex.split(line)[1:]
            assert str(run.folder) in words and make_parser().parse_args(words)
            if words[0] == "run":  # the run with one model more, which trains that alone
                wider = load_config(words[1], words[2:3])
                assert list(wider.members) == [*config.members, "a_seed1"]
                changed = find_changes(wider, run)
                assert changed.refused == [] and "a_seed1" in str(changed.changes[0])


def test_a_member_that_was_left_out_stands_in_the_table(tmp_path: Path) -> None:
    run = scripted(tmp_path)
    config = load_config(run.config)
    write_json(run.member(0, "a", 1).failure, {"kind": "error", "message": "it broke\nhere"})
    lines = member_lines(config, run, 0)
    assert lines[2].split(maxsplit=2) == ["a", "1", "LEFT OUT: error: it broke"]
    assert "LEFT OUT: waiting" in lines[3]


def test_what_the_submission_holds() -> None:
    assert submission_lines(None) == []
    assert submission_lines({"rows": 5, "empty": 2}) == [
        "the submission has 5 rows, 2 without an object"
    ]
    assert submission_lines({"rows": 1}) == ["the submission has 1 mask"]
    (line,) = submission_lines({"rows": 0, "problem": "it is torn"})
    assert line.endswith("it is torn")
