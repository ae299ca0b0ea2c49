"""The page of `distseg inspect` in a real browser: both widths and schemes, every picture loaded,
nothing wider than the window, no error in the console, no request."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from distseg import cli
from tests.data.test_survey import planted, tree
from tests.report.test_browser import opened

__all__ = ["planted"]  # a fixture

VIEWS = [(1200, "light"), (390, "light"), (390, "dark")]
# numbers of a chart that touch a neighbor on their line
TOUCHING = """[...document.querySelectorAll('.bars')].flatMap(chart => {
  const boxes = [...chart.querySelectorAll('text')].filter(t => t.textContent)
    .map(t => [t.textContent, t.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1)
    .filter(([, q]) => p.left < q.right && q.left < p.right && p.top < q.bottom && q.top < p.bottom)
    .map(([b]) => `${a} ${b}`));
})"""
SETS = ("tgs", "severstal", "camvid", "oxford_pet", "tianchi")


def look_at(page_path: Path, sections: list[str]) -> None:
    """Open the page in all views and scroll through it, so that all pictures are asked for."""
    for width, scheme in VIEWS:
        view = {"width": width, "height": 900}
        with opened(page_path, viewport=view, color_scheme=scheme) as page:
            headings = page.locator("h2").all_inner_texts()
            assert [name for name in sections if name not in headings] == []
            closed = page.locator("details:not([open]) summary")
            while closed.count():
                closed.first.click()
            for picture in page.locator("img").all():
                picture.scroll_into_view_if_needed()
            page.wait_for_function("[...document.images].every(i => i.complete)")
            broken = "[...document.images].filter(i => !i.naturalWidth).length"
            assert page.evaluate(broken) == 0 and page.locator("img").count() > 0
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.evaluate(TOUCHING) == []
            shown = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (shown == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_page_of_a_set_with_faults(planted: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(tree(planted)), encoding="utf-8")
    assert cli.main(["inspect", str(config), "--out", str(tmp_path / "page")]) == 1
    look_at(tmp_path / "page/inspect.html", ["Findings", "Classes", "Folds", "Train against test"])


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", SETS)
def test_the_page_of_a_real_set(data_root: Path, tmp_path: Path, name: str) -> None:
    """From the folder alone, without a config."""
    assert cli.main(["inspect", str(data_root / name), "--out", str(tmp_path)]) == 0
    look_at(tmp_path / "inspect.html", ["Findings", "Classes", "Folds"])
