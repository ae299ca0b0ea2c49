"""Signals that reach a driver at work."""

from __future__ import annotations

import os
import signal
import time

import pytest

from distseg.records.errors import Stopped
from distseg.run.folder import stop_on_signals


def test_a_signal_that_c_code_makes_an_error_of_stops_all_the_same() -> None:
    """What Ray does with an exception of a handler while it waits for its workers."""

    def wait() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Stopped as stopped:
            raise SystemError("returned a result with an exception set") from stopped

    with pytest.raises(Stopped) as found, stop_on_signals():
        wait()
    assert found.value.status == 128 + signal.SIGTERM
    with pytest.raises(SystemError, match="of its own"), stop_on_signals():
        raise SystemError("of its own")
