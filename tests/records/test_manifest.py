from __future__ import annotations

from pathlib import Path

import pytest

from distseg.records.errors import UserError
from distseg.records.manifest import COLUMNS, Manifest, Sample

SAMPLES = [
    Sample("a", "/d/a.png", "file:/d/m.png|", 0, height=3, width=4),
    Sample("b, c", "/d/b.png", "rle:1 2", -1, 0.25, "pseudo", (0, 2), 5, 6),
    Sample("d", "/d/d.png", "", 1, 1.0, "distilled", (1,), 7, 8, "round_1/x", 0.3),
]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    Manifest(SAMPLES).write(path)
    assert path.read_text().splitlines()[:3] == [
        ",".join(COLUMNS),
        "a,/d/a.png,file:/d/m.png|,0,1,labeled,,3,4,,0",
        '"b, c",/d/b.png,rle:1 2,-1,0.25,pseudo,0 2,5,6,,0',
    ]
    assert Manifest.read(path).samples == tuple(SAMPLES)


def test_a_table_without_soft_targets_is_read(tmp_path: Path) -> None:
    """The columns came later than the first runs."""
    path = tmp_path / "train.csv"
    Manifest(SAMPLES[:2]).write(path)
    lines = [line.rsplit(",", 2)[0] for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    assert Manifest.read(path).samples == tuple(SAMPLES[:2])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",-1,", ",x,", "line 3: invalid literal for int.*'x'"),
        (",0.25,", ",-2,", "line 3: weight -2.0 is below 0"),
        (",pseudo,", ",made,", "line 3: origin 'made'; valid"),
        (",0.3", ",3", "line 4: soft_weight 3.0 is not in 0..1"),
        (",7,8,round_1/x,0.3", "", "line 4: invalid literal for int"),
        (",0.3", ",0.3,1", "line 4: more cells than columns"),
        ("fold,", "fould,", "column 'fold' is missing"),
        ("d,/d/d.png", "a,/d/d.png", "id 'a' stands in several rows"),
    ],
)
def test_the_line_of_a_mistake_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "train.csv"
    Manifest(SAMPLES).write(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=said):
        Manifest.read(path)
