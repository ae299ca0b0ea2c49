"""The report in a real browser: every interaction, both schemes and widths, print; no error in the
console, no request."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distseg.config.load import dump_config
from distseg.config.schema import Config
from distseg.ensemble.fit import fit_ensemble
from distseg.records.files import append_line, read_json
from distseg.records.manifest import Manifest
from distseg.records.paths import Run
from distseg.rounds.choose import choose_final
from distseg.run.summary import compare_runs, write_report
from tests.made_run import made_config, made_run, write_data

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PLANTED = "images004"  # a mask that says the opposite of what all members say


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[Any]:
    """A page in a browser; fails where it writes to the console or asks for anything but itself."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    said: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **options})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        yield page
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def many_config(folder: Path) -> Config:
    return made_config(
        folder / "data", task="multiclass", classes=["ground", "x", "y"], metric="miou",
        stages=[{"loss": {"cross_entropy": 1.0}}],
    )  # fmt: skip


def reported(folder: Path, task: str = "binary", count: int = 24) -> Run:
    """A run with a report; binary: one image's mask is inverted after the members were made."""
    write_data(folder / "data", num=count, num_labels=3 if task == "multiclass" else 2)
    config = many_config(folder) if task == "multiclass" else made_config(folder / "data")
    run = made_run(folder, config, noise=0.3, scale=4.0)
    for name in config.members:
        for fold in range(3):
            for epoch in range(4):
                row = {"epoch": epoch, "stage": epoch // 2, "loss": 1 / (epoch + 1), "lr": 1e-3}
                append_line(run.member(0, name, fold).metrics, row | {"score": 0.2 * epoch})
    for number, job in enumerate(("a_fold0", "b_fold0", "predict-test-0")):
        start = {"time": 10.0 * number, "event": "job_started", "job": job, "slot": number % 2}
        append_line(run.ledger, {**start, "devices": []})
        append_line(run.ledger, {"time": 10.0 * number + 9, "event": "job_done", "job": job})
    if task == "binary":
        invert(run, folder / "data", config)
    fit_ensemble(config, run, 0)
    choose_final(run, 0)
    write_report(config, run)
    return run


def invert(run: Run, data: Path, config: Any) -> None:
    """Plant a label error: the logits stay as they are, the mask becomes its opposite."""
    from distseg.data.prepare import prepare

    path = data / "masks" / f"{PLANTED}.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    members = run.round(0) / "members"
    members.rename(run.folder / "kept")
    folds = {s.id: s.fold for s in Manifest.read(run.truth)}
    prepare(config, run)
    (run.folder / "kept").rename(members)
    assert {s.id: s.fold for s in Manifest.read(run.truth)} == folds, "folds.csv is kept"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported(tmp_path_factory.mktemp("browser")).report_html


def first_ids(page: Any, count: int = 3) -> list[str]:
    return [
        line.get_attribute("data-id") for line in page.query_selector_all("#list tbody tr")[:count]
    ]


def column(page: Any, number: int) -> list[float]:
    lines = page.query_selector_all(f"#list tbody tr td:nth-child({number})")
    return [float(cell.inner_text().replace(",", "").replace("–", "nan")) for cell in lines]


def test_the_list_is_sorted_and_filtered(report: Path) -> None:
    with opened(report) as page:
        assert page.inner_text("#count") == "24 of 24 images"
        assert column(page, 3) == sorted(column(page, 3)), "the worst first"
        page.click("button[data-key=area]")
        assert column(page, 4) == sorted(column(page, 4), reverse=True)
        page.click("button[data-key=area]")
        assert column(page, 4) == sorted(column(page, 4))
        page.click("button[data-key=id]")
        assert first_ids(page) == ["images000", "images001", "images002"]
        page.fill("#filter", "s00")
        assert page.inner_text("#count") == "10 of 24 images"
        page.select_option("#fold", "1")
        assert set(column(page, 2)) == {1.0}
        page.select_option("#holds", "empty")
        assert set(column(page, 4)) <= {0.0}
        page.fill("#filter", "no such image")
        assert page.inner_text("#count") == "0 of 24 images" and first_ids(page) == []


def test_suspected_label_errors_show_the_planted_one_first(report: Path) -> None:
    record = read_json(report.with_name("report.json"))["images"]
    assert record["suspects"][0]["id"] == PLANTED and record["suspects"][0]["doubt"] > 0.8
    with opened(report) as page:
        page.click("[data-tab=doubt]")
        assert first_ids(page, 1) == [PLANTED]
        assert "contradicts the label" in page.inner_text("#why")
        assert page.get_attribute("[data-tab=doubt]", "aria-selected") == "true"
        page.click("[data-tab=all]")
        assert page.inner_text("#count") == "24 of 24 images" and not page.is_visible("#why")


COUNT_RED = """() => { const c = document.querySelectorAll('#panes canvas')[4];
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
  for (let i = 0; i < d.length; i += 4) if (Math.abs(d[i] - d[i + 2]) > 40) n++;
  return [c.width, c.height, n]; }"""


def test_an_image_opens_large_and_the_keyboard_steps(report: Path) -> None:
    with opened(report) as page:
        page.click("[data-tab=doubt]")
        page.click("#list tbody tr")
        page.wait_for_selector("#panes canvas")
        titles = [node.inner_text() for node in page.query_selector_all("#panes figcaption")]
        assert titles == ["image", "truth", "prediction", "probability", "error"]
        assert page.inner_text("#title") == PLANTED
        width, height, wrong = page.evaluate(COUNT_RED)
        assert (width, height) == (10, 12) and wrong > 100, "all of the planted mask is an error"
        page.keyboard.press("Escape")
        assert not page.is_visible("#viewer")
        page.click("[data-tab=all]")
        names = first_ids(page, 3)
        page.focus("#list tbody tr")
        page.keyboard.press("Enter")
        for key, name in (
            ("ArrowRight", 1),
            ("j", 2),
            ("ArrowRight", 3),
            ("ArrowLeft", 2),
            ("k", 1),
        ):
            page.keyboard.press(key)
            shown = page.inner_text("#title")
            assert shown == first_ids(page, 4)[name]
        page.click("#back")
        assert page.inner_text("#title") == names[0]
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#title") == names[0], "the first has none before it"
        page.click("#next")
        page.click("#close")
        assert not page.is_visible("#viewer")
        assert page.evaluate("document.activeElement.dataset.id") == names[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_it_fits_both_widths_and_schemes(report: Path, scheme: str, width: int) -> None:
    with opened(report, viewport={"width": width, "height": 850}, color_scheme=scheme) as page:
        inner = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert inner[0] <= inner[1], "nothing sticks out"
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 27)")
        for title in (
            "What each part brought", "Where the score comes from", "How much hangs on it",
            "Config: what is not at its default",
        ):  # fmt: skip
            assert page.is_visible(f"text={title}"), title
        for bar in page.query_selector_all(".range"):
            own = bar.bounding_box()
            for mark in bar.query_selector_all("b, em, i"):
                box = mark.bounding_box()
                assert own["x"] - 6 <= box["x"], "a mark stands within its scale"
                assert box["x"] + box["width"] <= own["x"] + own["width"] + 6
        page.click("#list tbody tr")
        page.wait_for_selector("#panes canvas")
        box = page.query_selector("#viewer").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        page.keyboard.press("Escape")
        page.emulate_media(media="print")
        assert not page.is_visible("#browser") and page.is_visible("text=Out-of-fold pictures")


def test_other_runs(tmp_path: Path) -> None:
    """Several classes; four images; a page of images without pictures; a comparison."""
    run = reported(tmp_path / "many", "multiclass")
    with opened(run.report_html) as page:
        page.click("#list tbody tr")
        page.wait_for_selector("#panes canvas")
        assert page.inner_text("#viewer").count("ground") == 1
        assert "Which class is taken for which" in page.inner_text("body")
    few = reported(tmp_path / "few", count=6)
    with opened(few.report_html) as page:
        shown = [node.get_attribute("alt") for node in page.query_selector_all("figure img")]
        assert len(shown) == len(set(shown)) == 6, "a picture stands there once"
    for member in (few.round(0) / "members").iterdir():
        shutil.rmtree(member / "oof")
    config = made_config(tmp_path / "few" / "data")
    write_report(config, few)
    with opened(few.report_html) as page:
        assert "no member is usable" in page.inner_text("body")
        assert page.inner_text("#count") == "0 of 0 images"
    (run.folder / "config.yaml").write_text(dump_config(many_config(tmp_path / "many")))
    compare_runs([tmp_path / "many" / "run"] * 2, tmp_path / "out")
    with opened(tmp_path / "out" / "compare.html") as page:
        assert "cannot be told apart" in page.inner_text("body")
