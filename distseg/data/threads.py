"""Threads for reading files: decoding and waiting for a disk both leave Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = min(8, os.cpu_count() or 1)
_AHEAD = 2 * _THREADS  # items that are started before the caller takes their results


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function(item)` for each item, in the items' order, computed by at most 8 threads.

    At most 17 results exist at a time, so decoded images do not fill the memory however many
    there are. What `function` raises is raised here, and what has not begun is then dropped.
    """
    pool = ThreadPoolExecutor(_THREADS)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
