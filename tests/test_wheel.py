"""What a person has who has installed the wheel and no source tree, in an empty folder."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from distseg.config.schema import Config
from tests.test_api import SCRIPT, images_of
from tests.tiny import ROOT


def call(command: list[str], folder: Path, status: int = 0) -> str:
    """What a command prints; without the source tree on the path."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel."""
    folder = tmp_path_factory.mktemp("built")
    call([sys.executable, "-m", "uv", "build", "-q", "--out-dir", str(folder), str(ROOT)], folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `distseg` of a fresh environment, which shares all other packages with this one."""
    folder = tmp_path_factory.mktemp("fresh")
    call([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder)
    python, (wheel,) = folder / "bin" / "python", built.glob("*.whl")
    install = ["-m", "uv", "pip", "install", "-q", "--no-deps", "--python", str(python), str(wheel)]
    call([sys.executable, *install], folder)
    (place,) = folder.glob("lib/python3*/site-packages")
    (place / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "distseg"


def test_configs_by_name_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    distseg = str(installed)
    names = [line.split()[0] for line in call([distseg, "list", "configs"], tmp_path).splitlines()]
    known = [p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.yaml")]
    assert sorted(names) == sorted(path.with_suffix("").as_posix() for path in known)
    launch = call([distseg, "list", "launch", "multi_gpu"], tmp_path).strip()
    assert Path(launch).is_file() and installed.parents[1] in Path(launch).parents
    shown = call([distseg, "config", "show", "seeds/camvid"], tmp_path)
    (tmp_path / "my.yaml").write_text(shown)
    assert Config.model_validate(yaml.safe_load(shown)).name == "camvid"
    planned = call([distseg, "plan", "configs/quickstart.yaml"], tmp_path)
    assert "quickstart: 2 models x 2 folds = 4 members" in planned
    assert "Did you mean 'quickstart'" in call([distseg, "plan", "quickstrat"], tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


@pytest.mark.slow
def test_the_quickstart_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    shown = call([str(installed), "run", "quickstart"], tmp_path)
    assert "dice" in shown
    assert (tmp_path / "runs" / "quickstart" / "submission.csv").is_file()


def page(built: Path) -> tuple[str, list[str]]:
    """The text of the package index's page, and the names in a source distribution."""
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = archive.getnames()
        (record,) = [name for name in names if name.count("/") == 1 and name.endswith("PKG-INFO")]
        file = archive.extractfile(record)
        assert file is not None
        text = email.message_from_bytes(file.read()).get_payload()
    assert isinstance(text, str) and "# distseg" in text
    return text, names


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", text)


def test_the_page_of_the_package_index_leads_nowhere_wrong(built: Path) -> None:
    """No link and no picture that is relative to a source tree."""
    text, names = page(built)
    assert all(re.match(r"https?:", link) for link in links(text))
    assert "](docs/" not in text and "docs/first-dataset.md" in text
    assert not [name for name in names if "/results/" in name]


def test_links_are_absolute_where_the_source_has_an_address(tmp_path: Path) -> None:
    for name in ("hatch_build.py", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    urls = '[project.urls]\nSource = "https://example.org/distseg/"\n\n[project.scripts]'
    project = (ROOT / "pyproject.toml").read_text().replace("[project.scripts]", urls)
    (tmp_path / "pyproject.toml").write_text(project)
    (tmp_path / "distseg").mkdir()
    (tmp_path / "distseg" / "__init__.py").touch()
    command = [sys.executable, "-m", "uv", "build", "-q", "--sdist", "--out-dir", "out"]
    call(command, tmp_path)
    text, _ = page(tmp_path / "out")
    found = links(text)
    assert "https://example.org/distseg/blob/HEAD/docs/first-dataset.md" in found
    assert "https://example.org/distseg/raw/HEAD/docs/images/quickstart.png" in found
    assert len(found) == len(links((ROOT / "README.md").read_text()))
    assert all(re.match(r"https?:", link) for link in found)


def test_the_python_api_in_an_empty_folder(installed: Path, trained: Path, tmp_path: Path) -> None:
    """Arrays in, the masks of `distseg predict` out; the printed score again from NumPy alone."""
    files = images_of(trained, tmp_path / "in")
    call([str(installed), "predict", str(trained), "--images", "in", "--out", "out"], tmp_path)
    python = str(installed.with_name("python"))
    where = call([python, "-c", "import distseg; print(distseg.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parents[1])
    call([python, "-c", SCRIPT, str(trained)], tmp_path)
    for file in files:
        written, own = (tmp_path / name for name in (f"out/{file.name}", f"api_{file.name}"))
        assert np.array_equal(np.asarray(Image.open(written)), np.asarray(Image.open(own)))
    call([str(installed), "export", str(trained), "--out", "model"], tmp_path)
    call([str(installed), "compare", str(trained), str(trained), "--out", "page"], tmp_path)
    assert (tmp_path / "page" / "compare.html").is_file() and (tmp_path / "model").is_dir()
