"""The documentation: the site builds without a warning, its commands and configs are real ones, and
the notebook runs."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from distseg import cli
from distseg.arguments import make_parser
from tests.tiny import ROOT

PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
COMMAND = re.compile(r"(?:^|[`\s])(distseg [a-z][^`\n]*)")


def commands() -> Iterator[tuple[str, str]]:
    """(page, command) of every line of a code block, and every text in backticks, that calls
    distseg."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for line in text.splitlines():
            found = re.fullmatch(r"(?: {4})?\$? ?(distseg .*)", line)
            whole = [found[1]] if found and (line.startswith(" ") or "```" in text) else []
            for command in [*whole, *re.findall(r"`(distseg [^`]*)`", line)]:
                yield page.name, re.split(r"  +|\s#| > | \| ", command)[0].rstrip("\\ ")


def test_every_command_is_one_that_the_command_line_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Names in capitals stand for paths; `...` for what the reader adds."""
    parser, wrong, seen = make_parser(), [], set()
    for page, command in commands():
        words = [word for word in shlex.split(command, comments=True)[1:] if word != "..."]
        if not words or words[0] in ("COMMAND", "--help") or command.endswith("="):
            continue
        if words[0] not in cli.COMMANDS:
            wrong.append((page, command))
            continue
        seen.add(words[0])
        try:
            _, extra = parser.parse_known_args(words)
        except SystemExit as error:
            # a command that is only named (`distseg export`) lacks its arguments
            text = capsys.readouterr().err
            if len(words) > 1 or (error.code and "needs" not in text):
                wrong.append((page, command))
            continue
        if [word for word in extra if word.startswith("-") or "=" not in word]:
            wrong.append((page, command))
    assert wrong == []
    assert {"run", "plan", "inspect", "predict", "compare", "status", "export"} <= seen


def literals() -> Iterator[str]:
    """The texts of the package's code, `{...}` and `%s` of a message as a line break; no
    backticks, which a quote in backticks cannot have."""
    for path in (ROOT / "distseg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(v.value) if isinstance(v, ast.Constant) else "\n" for v in node.values]
                yield "".join(parts).replace("`", "")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%[sdr]", "\n", node.value).replace("`", "")


def quoted(page: str) -> Iterator[str]:
    """What stands in backticks in the first column of a page's table of messages."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    table = text.split("\n## Messages\n")[1].split("\n## ")[0]
    for line in table.splitlines():
        if line.startswith("| `") or re.match(r"\| .*`", line):
            yield from re.findall(r"`([^`]+)`", line.split(" | ")[0])


@pytest.mark.parametrize("page", ["troubleshooting.md", "data.md"])
def test_messages_are_quoted_as_the_code_prints_them(page: str) -> None:
    """`...`, `[...]`, one capital letter and PATH stand for what differs, and what follows a colon
    may come from another place. What the system says has the system's words."""
    code = "\n\n".join(literals())
    wrong = []
    for message in quoted(page):
        for fixed in re.split(r"\.\.\.|: |\[.*?\]|\b[A-Z]x[A-Z]\b|\b(?:[A-Z]|PATH)\b", message):
            words = fixed.strip(" :;,.()'")
            if words and words not in code and words != os.strerror(errno.ENOSPC):
                wrong.append((message, words))
    assert wrong == []


def test_every_yaml_block_is_yaml() -> None:
    blocks = [
        (page.name, block)
        for page in PAGES
        for block in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    ]
    assert blocks
    for name, block in blocks:
        assert isinstance(yaml.safe_load(block), dict | list), name


def test_every_python_block_compiles() -> None:
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            compile(block, page.name, "exec")


def test_the_page_of_commands_is_that_of_the_command_line() -> None:
    code = "import generate_config; print(generate_config.commands_page(), end='')"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    assert made.stdout == (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), "`make docs`"


def test_the_results_of_the_readme_are_those_of_the_reports() -> None:
    """What `docs/generate_results.py` prints stands in README.md, with the reports' own digits."""
    made = subprocess.run(
        [sys.executable, "docs/generate_results.py", "--print"], cwd=ROOT, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    ).stdout  # fmt: skip
    assert f"\n{made}\n" in (ROOT / "README.md").read_text(encoding="utf-8"), "`make docs`"
    reports = sorted((ROOT / "benchmarks" / "results").glob("*/report.json"))
    assert reports
    for path in reports:
        report = json.loads(path.read_text(encoding="utf-8"))
        (line,) = [one for one in made.splitlines() if one.startswith(f"| `{path.parent.name}` ")]
        cells = [cell.strip() for cell in line.split("|")]
        assert cells[2:4] == [
            f"{report['metric']} {report['score']:.4f}", f"{report['standard_error']:.4f}",
        ]  # fmt: skip
        assert f"{report['scores']['final']['num_images']:,}" in cells and report["flag"] in cells


def test_the_site_builds_without_a_warning_and_asks_no_other_server(tmp_path: Path) -> None:
    """--strict: links and anchors that lead nowhere, pages without a place, docstrings that name
    other arguments than the function has."""
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(site)], cwd=ROOT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(site).parent.as_posix() for path in site.rglob("index.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"} <= pages
    reference = (site / "reference" / "index.html").read_text(encoding="utf-8")
    assert "load_ensemble" in reference and "predict_folder" in reference
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'(?:src|<link[^>]*href)="https?://[^"]+"', text), path


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the docs extra is not installed")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "first_steps.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    text = str(notebook.cells)
    assert "128 images; the worst:" in text and "'mask" not in text
