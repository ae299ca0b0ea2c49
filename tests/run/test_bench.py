"""`distseg bench`: real steps in this process, and what is printed of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distseg import cli
from distseg.config.load import dump_config, parse_config
from distseg.config.schema import Config
from distseg.functional.limits import Speed, parse_speed
from distseg.jobs.hardware import Slot
from distseg.jobs.load import busy_others, memory_bytes
from distseg.records.errors import UserError
from distseg.records.files import atomic_write, read_lines
from distseg.records.paths import Run
from distseg.run.bench import Bench, bench, bench_record, bench_text
from distseg.run.measure import DataSize
from distseg.run.pace import RESULTS, measure_here, measuring
from tests.run.in_process import small_tree

SIZE = DataSize(24, 3, 32, 32)


def config_of() -> Config:
    """Model a, and one that cannot be built."""
    tree = small_tree()
    tree["members"]["b"] = {"arch": "Unet", "encoder": "tu-convnext_atto", "decoder": {
        "encoder_depth": 3, "decoder_channels": [8]}}  # fmt: skip
    return parse_config(tree, "test")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    run = Run(tmp_path_factory.mktemp("bench") / "run")
    atomic_write(run.config, dump_config(measuring(config_of(), SIZE)))
    measure_here(run, 0.0, bench=True)
    return {line["name"]: line for line in read_lines(run.folder / RESULTS)}


@pytest.fixture(scope="module")
def speed(lines: dict[str, dict]) -> Speed:
    found = parse_speed(lines["a"])
    assert found is not None
    return found


def found_of(speed: Speed) -> Bench:
    return Bench("tiny", [speed], ["b"], "a CPU x 2", [Slot(0, (), 1, 2)] * 2, 5e8, 1e5, 1e6, 8e9,
                 16e9, 2)  # fmt: skip


def test_a_step_is_taken_apart(lines: dict[str, dict], speed: Speed) -> None:
    assert "UserError" in lines["b"]["problem"]  # and hides nothing of the others
    assert speed.batch_size == 8 and speed.precision == "fp32" and not speed.gpu
    assert min(speed.step_s, speed.memory_s, speed.loader_s) > 0
    assert speed.loader_s < 60 and speed.evaluate_s > 0 and speed.predict_s > 0
    assert speed.memory > 10**7 and speed.others >= 0 and speed.cores >= 1
    tried = {trial.key: trial for trial in speed.trials}
    assert tried["compute.precision"].value == "bf16"
    assert tried["compute.channels_last"].value == "false"
    assert all(trial.step_s > 0 and trial.gain > 0 for trial in speed.trials)
    assert tried["compute.precision"].base_s == speed.memory_s


def test_text_and_json_say_the_same(speed: Speed) -> None:
    found = found_of(speed)
    text, record = bench_text(found), json.loads(json.dumps(bench_record(found)))
    assert text.startswith("tiny on a CPU x 2: 2 jobs at a time, 2 threads a rank")
    says = [*record["models"]["a"]["says"], record["disk"]["says"], record["memory"]["says"]]
    assert all(line in text for line in says) and "b: not measured" in text
    assert record["missing"] == ["b"] and record["models"]["a"]["limit"] == speed.limit
    assert "tried: compute.precision: bf16" in text and "500 MB/s are read" in text


def test_the_load_of_other_processes() -> None:
    with busy_others() as others:
        sum(range(3_000_000))
    free, total = memory_bytes()
    assert others() >= 0 and 0 < free <= total


def test_a_time_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--seconds: 0: a number above 0"):
        bench(config_of(), Run(tmp_path / "run"), 0.0)


@pytest.mark.slow
def test_the_command_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(dump_config(parse_config(small_tree(), "test")))
    status = cli.main(["bench", "tiny.yaml", "--seconds", "1", "--json"])
    record = json.loads(capsys.readouterr().out)
    assert status == 0 and set(record["models"]) == {"a", "b"} and record["missing"] == []
    assert record["disk"]["read"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
