"""The reports of a run of eleven classes and of one of four images in a real browser: every
interaction, both widths and schemes, print; no error in the console, no request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distseg.functional.drawing import class_rgb
from distseg.records.paths import Run
from distseg.run.summary import compare_runs
from tests.report.shown_runs import STREET, four_images, streets
from tests.report.test_browser import column, first_ids, opened

NEEDED = (
    "Scores, out of fold", "What each part brought", "Where the score comes from",
    "What was chosen", "Images, out of fold", "Training", "Jobs over time", "Out-of-fold pictures",
    "Config: what is not at its default", "Data, time, machine",
)  # fmt: skip
SWATCHES = """(place) => [...document.querySelectorAll(place + ' .swatch')].map(
  (one) => [one.parentElement.innerText.trim(), getComputedStyle(one).backgroundColor])"""
PIXEL = """(number) => { const c = document.querySelectorAll('#panes canvas')[number];
  return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; }"""


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return four_images(tmp_path_factory.mktemp("four"))[1]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return streets(tmp_path_factory.mktemp("streets"))[1]


def drive(run: Run, count: int) -> None:
    """Every interaction of the page."""
    with opened(run.report_html) as page:
        titles = page.locator("h2, h3").all_inner_texts()
        assert [title for title in NEEDED if title not in titles] == []
        assert page.inner_text("#count") == f"{count} of {count} images"
        for number, key in ((3, "score"), (4, "area"), (6, "disagreement"), (7, "doubt")):
            page.click(f"button[data-key={key}]")
            show_all(page)
            down = column(page, number)
            page.click(f"button[data-key={key}]")
            show_all(page)
            up = column(page, number)
            assert len(up) == count and sorted([up, down]) == sorted([sorted(up), sorted(up)[::-1]])
        page.click("button[data-key=id]")
        show_all(page)
        names = first_ids(page, count)
        assert len(set(names)) == count
        page.click("button[data-key=id]")
        show_all(page)
        assert first_ids(page, count) == names[::-1]
        page.click("button[data-key=id]")
        show_all(page)
        page.fill("#filter", names[-1])
        assert first_ids(page, count) == names[-1:]
        page.fill("#filter", "")
        folds = [one.get_attribute("value") for one in page.query_selector_all("#fold option")][1:]
        shown = []
        for fold in folds:
            page.select_option("#fold", fold)
            show_all(page)
            shown += first_ids(page, count)
            assert set(column(page, 2)) == {float(fold)}
        assert sorted(shown) == sorted(names)
        page.select_option("#fold", "")
        page.select_option("#holds", "object")
        show_all(page)
        full = first_ids(page, count)
        page.select_option("#holds", "empty")
        show_all(page)
        assert sorted([*full, *first_ids(page, count)]) == sorted(names)
        page.select_option("#holds", "")
        show_all(page)
        step_through(page, names)
        page.click("[data-tab=doubt]")
        assert page.is_visible("#why")
        page.click("[data-tab=all]")
        pictures = [one.get_attribute("alt") for one in page.query_selector_all("figure > img")]
        assert len(pictures) == len(set(pictures))
        for summary in page.query_selector_all("summary"):
            summary.click()


def show_all(page: Any) -> None:
    """A long list stands there in parts."""
    while page.is_visible("#more"):
        page.click("#more")


def step_through(page: Any, names: list[str]) -> None:
    """Open the first image, step to the last one and back by keys and buttons, and close; of the
    first and last ten what is shown is looked at."""
    page.click("#list tbody tr")
    for number, name in enumerate(names):
        if min(number, len(names) - 1 - number) < 10:
            page.wait_for_selector("#panes canvas")
            assert page.inner_text("#title") == name
            assert len(page.query_selector_all("#panes canvas")) == 5
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#title") == names[-1], "the last has none after it"
    page.click("#back")
    assert page.inner_text("#title") == names[-2]
    page.keyboard.press("k")
    assert page.inner_text("#title") == names[-3]
    page.keyboard.press("j")
    page.click("#next")
    assert page.inner_text("#title") == names[-1]
    page.keyboard.press("Escape")
    assert not page.is_visible("#viewer")


def fits(path: Path) -> Iterator[str]:
    """What is wrong at one of the widths, in one of the schemes, or in print."""
    for width in (1200, 390):
        for scheme in ("light", "dark"):
            view = {"width": width, "height": 850}
            with opened(path, viewport=view, color_scheme=scheme) as page:
                where = f"{width} pixels, {scheme}"
                if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
                    yield f"{where}: something sticks out"
                light = page.evaluate("getComputedStyle(document.body).backgroundColor")
                if (light == "rgb(255, 255, 255)") != (scheme == "light"):
                    yield f"{where}: the ground is {light}"
                clipped = page.evaluate("""() => [...document.querySelectorAll('svg text')].filter(
                    (text) => { const [a, b] = [text, text.ownerSVGElement].map(
                        (one) => one.getBoundingClientRect());
                        return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1
                            || a.bottom > b.bottom + 1; }).map((text) => text.textContent)""")
                if clipped:
                    yield f"{where}: labels are cut off: {clipped}"
                page.click("#list tbody tr")
                page.wait_for_selector("#panes canvas")
                box = page.query_selector("#viewer").bounding_box()
                if box["x"] < 0 or box["x"] + box["width"] > width:
                    yield f"{where}: the image does not fit"
                page.keyboard.press("Escape")
                page.emulate_media(media="print")
                if page.is_visible("#browser") or not page.is_visible("text=Out-of-fold pictures"):
                    yield f"{where}: print"


def test_a_report_of_four_images(few: Run) -> None:
    drive(few, 4)
    with opened(few.report_html) as page:
        assert "Of 4 images the error is a rough guess, too." in page.inner_text("body")
        captions = page.locator("figcaption").all_inner_texts()
        assert len([text for text in captions if text.startswith("by score")]) == 4


@pytest.mark.slow
def test_a_report_of_four_images_fits(few: Run) -> None:
    assert list(fits(few.report_html)) == []


@pytest.mark.slow
def test_a_report_of_eleven_classes(many: Run, tmp_path: Path) -> None:
    drive(many, 21)
    with opened(many.report_html) as page:
        body = page.inner_text("body")
        assert "error is a rough guess" not in body and "Truth above or to the left" in body
        expected = [(name, class_rgb(number)) for number, name in enumerate(STREET[1:])]
        page.click("#list tbody tr")
        page.wait_for_selector("#panes canvas")
        shown = dict(page.evaluate(SWATCHES, "#viewer"))
        assert {name: "rgb({}, {}, {})".format(*rgb) for name, rgb in expected}.items() <= (
            shown.items()
        )
        truth = page.evaluate(PIXEL, 1)
        assert len(truth) == 4 * 120 * 160 and len({tuple(truth[i : i + 3]) for i in (0, -4)}) == 2
        page.keyboard.press("Escape")
        matrix = page.locator("td.cell").all_inner_texts()
        assert len(matrix) == 11 * 11 and all(text.endswith("%") for text in matrix)
        assert page.locator("img[alt^='test image']").count() == 4
    assert list(fits(many.report_html)) == []
    compare_runs([many.folder, many.folder], tmp_path / "out")
    with opened(tmp_path / "out" / "compare.html") as page:
        assert "cannot be told apart" in page.inner_text("body")
