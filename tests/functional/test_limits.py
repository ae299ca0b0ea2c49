"""What bounds training: hand-made figures, and what is said of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from distseg.functional.limits import (
    Speed,
    Trial,
    disk_line,
    limit_lines,
    memory_line,
    parse_speed,
)

CPU = Speed(
    "unet", 16, step_s=1.0, memory_s=0.95, loader_s=0.1, spread=0.02, workers=0, evaluate_s=0.02,
    predict_s=0.05, memory=2 * 10**9, gpu=False, others=0.0, cores=8, precision="fp32",
)  # fmt: skip
FASTER = Trial("compute.precision", "bf16", 0.475, 0.95, 16, 16)
SLOWER = Trial("compute.channels_last", "false", 1.9, 0.95, 16, 16)


def test_the_device_is_the_limit_where_steps_hardly_wait() -> None:
    assert CPU.limit == "device" and CPU.waits == pytest.approx(0.05)
    (line,) = limit_lines(CPU)
    assert line.startswith("The device is the limit: 95% of a step are the CPU's")
    assert "the loader alone is 9.5 times as fast" in line


def test_a_loader_in_the_same_process_is_the_limit() -> None:
    slow = replace(CPU, memory_s=0.6, loader_s=0.4)
    assert slow.limit == "loader" and slow.waits == pytest.approx(0.4)
    (line,) = limit_lines(slow)
    assert "40% of a step waits for images" in line and "compute.workers: 0" in line
    beside = replace(slow, workers=3, loader_s=1.0)
    assert "With 3 loader processes a batch takes 1000 ms" in next(limit_lines(beside))
    # a slower step that the loader cannot have made slower is another process's work
    assert replace(CPU, memory_s=0.5, loader_s=0.01).limit == "device"


def test_the_host_is_the_limit_of_busy_machines_and_small_kernels() -> None:
    busy = replace(CPU, others=3.0, trials=(FASTER,))
    lines = list(limit_lines(busy))
    assert busy.limit == "host" and "other processes keep 3.0 of 8 cores busy" in lines[0]
    assert lines[1].endswith("other weights come out; measure again on a quiet machine.")
    gpu = replace(CPU, gpu=True, half_s=0.9)
    assert gpu.limit == "host" and "half a batch takes 95% of the time" in next(limit_lines(gpu))
    assert replace(gpu, half_s=0.5).limit == "device"


def test_what_gains_is_named_first_and_what_does_not_is_not() -> None:
    assert (FASTER.gain, SLOWER.gain) == (2.0, 0.5)
    double = Trial("train.batch_size", "32", 1.0, 0.95, 32, 16)
    assert double.gain == pytest.approx(1.9)
    workers = Trial("compute.workers", "1", 0.5, 0.8, 16, 16, loading=True, weights=False)
    lines = list(limit_lines(replace(CPU, trials=(SLOWER, workers, double, FASTER))))
    assert lines[1:] == [
        "compute.precision: bf16 is 2.00 times as fast; other weights come out.",
        "train.batch_size: 32 is 1.90 times as fast; other weights come out.",
        "compute.workers: 1 is 1.60 times as fast.",
    ]
    (_, line) = limit_lines(replace(CPU, trials=(SLOWER,)))
    assert line == "No other value that was tried is faster (compute.channels_last: false)."


def test_figures_come_back_from_json() -> None:
    speed = replace(CPU, trials=(FASTER, SLOWER))
    assert parse_speed(json.loads(json.dumps(asdict(speed)))) == speed
    assert parse_speed({"name": "a", "problem": "no"}) is None


def test_disk_and_memory() -> None:
    giga = 10**9
    assert disk_line(100e6, 2e6, 0.5 * giga, 8 * giga).endswith("it is no limit.")
    assert disk_line(100e6, 2e6, 50 * giga, 8 * giga).endswith("it is no limit.")
    slow = disk_line(100e6, 80e6, 50 * giga, 8 * giga)
    assert "100 MB/s are read, training needs 80.0" in slow
    assert slow.endswith("Set data.cache_dir to a faster disk.")
    assert "not measured" in disk_line(None, 1.0, 1.0, 1.0)
    assert memory_line(2 * giga, 16 * giga, 4, "CPU") == (
        "Memory: 4 x 2.0 of 16.0 GB (CPU): it is no limit."
    )
    assert "it is the limit. A smaller train.batch_size" in memory_line(4 * giga, 16 * giga, 4, "")
