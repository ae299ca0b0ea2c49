from __future__ import annotations

import threading

import pytest

from distseg.data.threads import in_threads


def test_results_come_in_order_and_few_wait() -> None:
    begun: list[int] = []

    def square(number: int) -> int:
        begun.append(number)
        return number**2

    results = in_threads(square, range(1000))
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(begun) <= 3 + 16  # 8 threads, as many items again that wait for one
    assert list(results) == [number**2 for number in range(3, 1000)]
    assert sorted(begun) == list(range(1000))
    assert list(in_threads(square, [])) == []


def test_an_error_comes_out_and_the_rest_is_dropped() -> None:
    begun: list[int] = []
    first = threading.Event()

    def fail(number: int) -> int:
        begun.append(number)
        if number == 0:
            first.wait(10)
            raise ValueError("item 0")
        first.set()
        return number

    with pytest.raises(ValueError, match="item 0"):
        list(in_threads(fail, range(1000)))
    assert len(begun) <= 17
