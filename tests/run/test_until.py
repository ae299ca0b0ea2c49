"""`--until`: which texts are times."""

from __future__ import annotations

import datetime

import pytest

from distseg import cli
from distseg.records.errors import UserError
from distseg.run.until import Until, seconds_until

NOON = datetime.datetime(2030, 5, 1, 12, 0, 30)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8h", 8 * 3600), ("30m", 1800), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400),
        ("2d", 2 * 86400), ("12:30", 1770), ("22:30", 37770), ("11:00", 23 * 3600 - 30),
        ("12:00", 86400 - 30), ("0:05", 12 * 3600 + 270),
    ],
)  # fmt: skip
def test_times(text: str, seconds: float) -> None:
    assert seconds_until(text, NOON) == seconds


@pytest.mark.parametrize(
    "text", ["", "8", "h", "8x", "-8h", "24:00", "12:60", "1.2.3h", "0m", "8 h", "9" * 40 + "h"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UserError, match=r"--until: .*: write a time from now"):
        seconds_until(text, NOON)


def test_the_command_refuses_it_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "quickstart", "--until", "soon"]) == 2
    assert "--until: 'soon'" in capsys.readouterr().err


def test_never_is_the_default() -> None:
    assert not Until.of(None).is_over()
    assert Until.of("1h").asked == "" and not Until.of("1h").is_over()
