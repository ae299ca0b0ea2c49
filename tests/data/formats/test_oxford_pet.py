"""Oxford-IIIT Pet: lists, trimaps and what their values mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distseg.data.formats.row import SubmissionSpec
from distseg.data.layouts import layout
from distseg.data.read_target import read_target
from distseg.records.errors import UserError
from distseg.submission.write import ShareWriter
from tests.data.formats.layout_helpers import config_of, save_image


def test_a_list_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "annotations" / "test.txt").write_text("../../cat_3 1 1 1\n")
    with pytest.raises(UserError, match=r"test\.txt, line 1: '\.\./\.\./cat_3\.jpg' is no plain"):
        layout("oxford_pet").test(config_of("oxford_pet", tmp_path))
    spec = SubmissionSpec("masks", ids=["../evil"])
    with pytest.raises(UserError, match="leaves its folder"):
        ShareWriter(spec, tmp_path / "out" / "masks")


def pets(root: Path) -> np.ndarray:
    trimap = np.full((16, 24), 2, dtype=np.uint8)
    trimap[4:12, 4:12], trimap[6:10, 6:10] = 3, 1
    for number, name in enumerate(("cat_1", "dog_2", "cat_3")):
        save_image(root / "images" / f"{name}.jpg", seed=number)
        path = root / "annotations" / "trimaps" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(trimap).save(path)
    (root / "annotations" / "trainval.txt").write_text("# list\ncat_1 1 1 1\ndog_2 2 2 1\n")
    (root / "annotations" / "test.txt").write_text("cat_3 1 1 1\n")
    return trimap


@pytest.mark.parametrize(("border", "value"), [("pet", 1), ("background", 0), ("ignore", 255)])
def test_the_border_of_a_trimap_is_what_the_config_says(
    tmp_path: Path, border: str, value: int
) -> None:
    trimap = pets(tmp_path)
    config = config_of("oxford_pet", tmp_path, border=border)
    rows = layout("oxford_pet").train(config)
    assert [row.id for row in rows] == ["cat_1", "dog_2"]
    target = read_target(rows[0].target, config, 16, 24)[0]
    assert set(target[trimap == 3]) == {value}
    assert set(target[trimap == 1]) == {1} and set(target[trimap == 2]) == {0}
    assert [row.id for row in layout("oxford_pet").test(config)] == ["cat_3"]
    assert layout("oxford_pet").submission(config).kind == "masks"


def test_pets_without_an_image_or_a_trimap_are_quarantined(tmp_path: Path) -> None:
    pets(tmp_path)
    (tmp_path / "images" / "cat_1.jpg").unlink()
    (tmp_path / "annotations" / "trimaps" / "dog_2.png").unlink()
    rows = layout("oxford_pet").train(config_of("oxford_pet", tmp_path))
    assert "no image cat_1.jpg" in rows[0].problem and "line 2" in rows[0].problem
    assert "no trimap dog_2.png" in rows[1].problem


def test_a_trimap_value_without_a_meaning_is_named(tmp_path: Path) -> None:
    pets(tmp_path)
    path = tmp_path / "annotations" / "trimaps" / "cat_1.png"
    Image.fromarray(np.full((16, 24), 7, np.uint8)).save(path)
    config = config_of("oxford_pet", tmp_path)
    with pytest.raises(UserError, match="value 7 has no meaning"):
        read_target(f"file:{path}", config, 16, 24)


def test_mask_values_translate_any_folder(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.fromarray(np.array([[0, 100, 200]], np.uint8)).save(path)
    config = config_of("folder", tmp_path, mask_values={0: 0, 100: 255, 200: 1})
    assert read_target(f"file:{path}", config, 1, 3).tolist() == [[[0, 255, 1]]]
