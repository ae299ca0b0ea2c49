"""The learning-rate finder: its suggestion on made curves, and a real ramp."""

from __future__ import annotations

import math
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distseg.cli import main
from distseg.records.files import read_json
from distseg.training import find_lr as finder
from distseg.training.find_lr import HIGH, LOW, find_lr, picture, smooth, suggest
from distseg.training.stage import StepResult
from tests.tiny import tiny_tree
from tests.training.tiny_training import set_up


def test_the_steepest_fall_before_the_least_loss_is_suggested() -> None:
    rates = [10.0**e for e in range(-6, 1)]
    assert suggest(rates, [1.0, 1.0, 0.9, 0.4, 0.35, 0.6, 5.0]) == pytest.approx(1e-4)
    assert suggest(rates, [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]) == pytest.approx(1e-5)
    drawn = ElementTree.fromstring(picture(rates, [1.0, 0.9, 0.8, 0.4, 0.3, 0.6, 5.0], 1e-4))
    assert len(drawn.findall("{*}polyline")) == 1


def test_the_curve_ends_where_the_loss_diverges() -> None:
    """No step is taken after it, and the running mean does not begin at 0."""
    taken = []

    def steps(*losses: float) -> Iterator[tuple[float, float]]:
        for number, loss in enumerate(losses):
            taken.append(number)
            yield 10.0**number, loss

    even = smooth(steps(1.0, 1.0, 1.0))
    assert [rate for rate, _ in even] == [1.0, 10.0, 100.0]
    assert [loss for _, loss in even] == pytest.approx([1.0] * 3)
    taken.clear()
    curve = smooth(steps(1.0, 2.0, 99.0, 1.0))
    assert [rate for rate, _ in curve] == [1.0, 10.0, 100.0] and taken == [0, 1, 2]
    assert curve[1][1] == pytest.approx((0.09 * 1.0 + 0.1 * 2.0) / 0.19)
    assert len(smooth(steps(1.0, math.nan, 1.0))) == 1


def test_a_ramp_on_real_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(tiny_tree()))
    command = ["find-lr", str(path), "--member", "a", "--fold", "0", "--out", str(tmp_path / "r")]
    assert main([*command, "--steps", "24"]) == 0
    record = read_json(tmp_path / "r/find_lr/a_fold0.json")
    assert (
        LOW < record["suggested"] < HIGH and f"{record['suggested']:.1e}" in capsys.readouterr().out
    )
    assert record["rates"][0] == LOW and 3 <= len(record["rates"]) <= 24
    assert record["rates"] == sorted(record["rates"]) and all(v > 0 for v in record["losses"])
    assert (tmp_path / "r/find_lr/a_fold0.svg").is_file()
    assert not (tmp_path / "r/round_0/members").exists(), "a trial leaves no member"
    assert main([*command, "--steps", "5"]) == 2


def test_a_trial_that_is_stopped_leaves_the_runs_member_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights, of rates up to 1, are none to go on from."""
    config, run = set_up(tmp_path)
    step = finder.train_step
    done: list[Any] = []

    def stopped(*arguments: Any, **options: Any) -> StepResult:
        if len(done) == 3:
            signal.raise_signal(signal.SIGINT)
        done.append(step(*arguments, **options))
        return done[-1]

    monkeypatch.setattr(finder, "train_step", stopped)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            find_lr(config, run, "a", 0, steps=24)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (run.folder / "round_0/members").exists()
