"""Tests of several hosts: skipped, with the reason, where this machine can make none."""

from __future__ import annotations

import pytest

from tests.hosts.hosts import why_not


@pytest.fixture(scope="session")
def can_make_hosts() -> None:
    """Skips where there are no namespaces."""
    if reason := why_not():
        pytest.skip(reason)
