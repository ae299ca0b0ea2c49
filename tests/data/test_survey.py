"""A made set with one fault of each kind, each found by its id; and sets without faults."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from distseg import cli
from distseg.config.load import parse_config
from distseg.data.layouts import layout
from distseg.data.survey import similar
from distseg.data.survey.findings import SERIOUS, Finding, Surveyed, find
from distseg.data.survey.measure import measure
from distseg.data.survey.shift import area_under_curve, hanley_error
from distseg.data.survey.similar import near_groups
from distseg.data.survey.survey import areas, record, survey, together
from distseg.report.survey_page import bars
from tests.run.test_check import SMALL

HEIGHT, WIDTH, GOOD = 60, 72, 60
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def made(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Pair:
    """A bright ellipse with a soft edge on a textured ground, and its mask of 0 and 255."""
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.normal(90, 60, (height, width)).astype(np.float32), (0, 0), 2)
    mask = np.zeros((height, width), np.uint8)
    center = (int(rng.integers(20, width - 20)), int(rng.integers(18, height - 18)))
    axes = (int(rng.integers(6, 12)), int(rng.integers(5, 10)))
    cv2.ellipse(mask, center, axes, float(rng.integers(180)), 0, 360, 255, -1)
    return lit(ground, mask), mask


def lit(ground: NDArray[np.float32], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The ground, 80 gray levels brighter where the mask is."""
    image = ground + 80 * cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1) / 255
    return np.clip(image, 0, 255).astype(np.uint8)


def write(root: Path, name: str, image: NDArray[np.uint8], mask: NDArray[np.uint8] | None) -> None:
    for folder, array in (("images" if mask is not None else "test", image), ("masks", mask)):
        if array is not None:
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{name}.png")


def tree(root: Path, **changes: Any) -> dict[str, Any]:
    data = {"root": str(root), "format": "folder", "folds": {"num": 2},
            "folder": {"images": "images", "masks": "masks", "test_images": "test"}}  # fmt: skip
    return {
        "name": "mine", "data": data, "members": {"a": SMALL},
        "input": {"height": 96, "width": 96, "channels": 1}, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty good pairs, fifteen test images 60 gray levels brighter, and the faults."""
    root = tmp_path_factory.mktemp("planted")
    for number in range(GOOD):
        write(root, f"good{number}", *made(number))
    faults = {name: made(1000 + i) for i, name in enumerate(
        ("inverted", "full", "line", "pixel", "shifted", "rectangle", "mirrored", "near", "twin")
    )}  # fmt: skip
    image, mask = faults["inverted"]
    write(root, "inverted", image, 255 - mask)
    write(root, "full", faults["full"][0], np.full_like(mask, 255))
    line, pixel, box = (np.zeros_like(mask) for _ in range(3))
    line[30, 10:50], pixel[20, 20], box[10:30, 12:40] = 255, 255, 255
    write(root, "line", faults["line"][0], line)
    write(root, "pixel", faults["pixel"][0], pixel)
    write(root, "rectangle", faults["rectangle"][0], box)
    write(root, "shifted", faults["shifted"][0], np.roll(faults["shifted"][1], (14, -16), (0, 1)))
    corner = np.zeros_like(mask)
    cv2.ellipse(corner, (16, 14), (9, 7), 20, 0, 360, 255, -1)
    image = lit(90 + made(2000)[0].astype(np.float32) * 0.1, corner)
    write(root, "mirrored", image, np.ascontiguousarray(corner[::-1, ::-1]))
    write(root, "black", np.zeros_like(mask), made(3000)[1])
    noise = np.random.default_rng(0).integers(-2, 3, mask.shape)
    copy = np.clip(made(5)[0].astype(int) + noise + 4, 0, 255).astype(np.uint8)
    write(root, "near", copy, made(5)[1])
    write(root, "twin", made(7)[0], made(8)[1])
    write(root, "small", *made(4000, 40, 48))
    torn = root / "images" / "torn.png"
    write(root, "torn", *made(4001))
    torn.write_bytes(torn.read_bytes()[:300])
    for number in range(15):
        write(root, f"t{number}", np.clip(made(5000 + number)[0].astype(int) + 60, 0, 255)
              .astype(np.uint8), None)  # fmt: skip
    write(root, "leak", made(3)[0], None)
    return root


@pytest.fixture(scope="module")
def found(planted: Path) -> dict[str, Finding]:
    config = parse_config(tree(planted), "planted")
    form = layout("folder")
    _, _, findings = survey(config, form.train(config), form.test(config))
    return {finding.kind: finding for finding in findings}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("inverted masks", "inverted"),
        ("full masks", "full"),
        ("lines", "line"),
        ("dots", "pixel"),
        ("shifted masks", "shifted"),
        ("mirrored masks", "mirrored"),
        ("rectangles", "rectangle"),
        ("masks that do not fit", "rectangle"),
        ("object in a black image", "black"),
        ("near copies", "good5, near"),
        ("copies with other masks", "good7, twin"),
        ("train images in test", "good3 = leak"),
        ("unreadable train files", "torn"),
        ("odd sizes", "small"),
    ],
)
def test_each_fault_is_found_by_its_id(found: dict[str, Finding], kind: str, name: str) -> None:
    assert kind in found, list(found)
    assert name in found[kind].ids


def test_what_is_good_is_not_accused(found: dict[str, Finding]) -> None:
    accused = {name for finding in found.values() for name in finding.ids}
    assert not [name for name in accused if name.startswith("good") and "," not in name
                and "=" not in name]  # fmt: skip
    assert set(found["near copies"].ids) == {"good5, near"}


def test_a_brighter_test_set_is_named_with_what_differs(found: dict[str, Finding]) -> None:
    shift = found["shift"]
    assert (shift.level == SERIOUS and "brightness" in shift.what) or "median" in shift.what
    assert set(shift.ids) <= {f"t{number}" for number in range(15)}


def test_a_set_without_faults_has_no_findings(tmp_path: Path) -> None:
    for number in range(40):
        write(tmp_path, f"good{number}", *made(number))
    for number in range(15):
        write(tmp_path, f"t{number}", made(500 + number)[0], None)
    config = parse_config(tree(tmp_path), "good")
    form = layout("folder")
    surveyed, checked, findings = survey(config, form.train(config), form.test(config))
    assert findings == []
    said = record(surveyed, checked, findings)
    assert said["serious"] == 0 and said["shift"]["auc"] < 0.7 and len(said["folds"]) == 3
    assert sum(said["areas"]["object"]["counts"]) == 40


def test_text_json_page_and_exit_status(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump(tree(planted)))
    assert cli.main(["inspect", "mine.yaml", "--out", "looked"]) == 1
    text = capsys.readouterr().out
    assert "serious: inverted masks: " in text and "page: looked/inspect.html" in text
    said = json.loads(Path("looked/inspect.json").read_text())
    assert said["quarantine"] == 1 and said["serious"] >= 5
    page = Path("looked/inspect.html").read_text()
    for name in ("inverted", "good7, twin", "good3 = leak", "data:image/png"):
        assert name in page
    assert "http" not in page.replace("http-equiv", "")
    assert cli.main(["inspect", "mine.yaml", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == said
    assert cli.main(["inspect", "mine.yaml", "--out", str(planted / "images")]) == 2
    assert "lies among the data" in capsys.readouterr().err


def test_classes_that_are_rare_or_never_there(tmp_path: Path) -> None:
    for number in range(30):
        image, mask = made(number)
        labels = (mask > 0).astype(np.uint8)
        labels[2:6, 2:6] = 2 * (number == 4)
        write(tmp_path, f"good{number}", image, labels)
    classes = ["ground", "blob", "corner"]
    config = parse_config(
        tree(tmp_path, task="multiclass", classes=classes, metric="miou",
             stages=[{"loss": {"cross_entropy": 1.0}}]), "rare",
    )  # fmt: skip
    form = layout("folder")
    surveyed, checked, findings = survey(config, form.train(config), [])
    rare = next(finding for finding in findings if finding.kind == "rare class")
    assert rare.ids == ("good4",) and "class corner is in 1 of 30" in rare.what
    assert record(surveyed, checked, findings)["together"] == [[30, 1], [1, 1]]


def test_histograms_have_whole_bins_that_hold_all(tmp_path: Path) -> None:
    config = parse_config(tree(tmp_path), "bins")
    images = []
    for area in (0, 1, 2, 7, 60, 500, 4000):
        mask = np.zeros((1, HEIGHT, 90), np.uint8)
        mask.reshape(-1)[:area] = 1
        images.append(measure(config, str(area), np.zeros((HEIGHT, 90, 1), np.uint8), mask))
    histogram = areas(images, 0)
    assert histogram["empty"] == 1 and sum(histogram["counts"]) == 6
    edges = histogram["edges"]
    assert all(b > a for a, b in itertools.pairwise(edges)) and edges[0] == 1
    assert together(images, 1) == [[6]]


def test_what_stands_below_a_bar_is_short() -> None:
    edges = [1, 864, 1728, 9999, 55_296, 1_100_000, 9_000_000]
    shown = bars({"edges": edges, "counts": [1] * 6})["bars"]
    assert [bar["from"] for bar in shown] == ["1", "864", "1.7k", "10k", "55k", "1.1M"]
    assert shown[2]["label"] == "1,728–9,998"


def test_near_copies_survive_other_formats_and_brightness(tmp_path: Path) -> None:
    config = parse_config(tree(tmp_path), "near")

    def of(name: str, image: NDArray[np.uint8]) -> Any:
        return measure(config, name, image[:, :, None], None)

    base = made(1)[0]
    encoded = cv2.imencode(".jpg", base, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    jpeg = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)
    large = np.asarray(cv2.resize(base, (WIDTH * 2, HEIGHT * 2)), np.uint8)
    darker = (base * 0.7).astype(np.uint8)
    images = [of("base", base), of("jpeg", jpeg), of("large", large), of("darker", darker)]
    images += [of(f"other{i}", made(50 + i)[0]) for i in range(40)]
    assert near_groups(images) == [[0, 1, 2, 3]]


def test_the_area_under_a_curve() -> None:
    positives, negatives = np.array([3.0, 2.0, 1.0]), np.array([1.0, 0.0])
    assert area_under_curve(positives, negatives) == pytest.approx(5.5 / 6)
    rng = np.random.default_rng(0)  # two normal distributions 1.8124 apart have an area of .9
    drawn = [area_under_curve(rng.normal(1.8124, 1, 50), rng.normal(0, 1, 50)) for _ in range(1000)]
    assert float(np.mean(drawn)) == pytest.approx(0.9, abs=0.005)
    assert hanley_error(0.9, 50, 50) == pytest.approx(float(np.std(drawn)), rel=0.15)


def test_a_folder_alone_is_read_as_init_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        write(tmp_path / "set", f"a{number:02d}", *made(number))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", "set", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["train"], said["task"]) == (12, "binary")
    assert cli.main(["inspect", "set", "classes=[egg]", "data.limit=9"]) == 0
    said_9 = capsys.readouterr().out
    assert "egg" in said_9 and "9 train images" in said_9
    assert cli.main(["inspect", "set", "data.limt=9"]) == 2
    assert "data.limt" in capsys.readouterr().err
    for wrong in ("data=5", "input=3", "data.folds=[]", "data.folder.images=3"):
        assert cli.main(["inspect", "set", wrong]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"distseg: error: set: {wrong.partition('=')[0]}"), error
    assert cli.main(["inspect", "set", "input.fit=crop", "input.overlap=0.5"]) == 0


def test_a_video_is_one_group_whose_text_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that drift are nearly the same as the next ones; two such videos are two groups, and
    a test frame is named with the train frames. In buckets the same is found as pair by pair."""
    config = parse_config(tree(tmp_path), "video")
    images = []
    for number in range(2):
        start, end = made(number)[0].astype(float), made(number + 10)[0].astype(float)
        for step in range(20):
            frame = (start * (40 - step) + end * step) / 40
            target = None if step == 19 else np.zeros((1, HEIGHT, WIDTH), np.uint8)
            one = frame.astype(np.uint8)[:, :, None]
            images.append(measure(config, f"{number}_{step:02d}", one, target))
    train = [image for image in images if image.mask_sha]
    test = [image for image in images if not image.mask_sha]
    found = {f.kind: f for f in find(Surveyed(config, train, test, [], [], None))}
    near, leaked = found["near copies"], found["near copies in test"]
    assert [len(group) for group in near.groups] == [19, 19] and len(near.ids) == 2
    assert near.ids[0].startswith("0_00, 0_01") and near.ids[0].endswith(" and 11 more")
    assert leaked.ids[1].endswith("and 11 more = 1_19") and leaked.groups[1][-1] == "1_19"
    assert len(near.places) <= 8
    whole = near_groups(images)
    monkeypatch.setattr(similar, "ALL_PAIRS", 30)
    monkeypatch.setattr(similar, "BLOCK", 7)
    assert near_groups(images) == whole and len(whole) == 2
