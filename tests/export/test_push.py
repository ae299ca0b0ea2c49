"""An export goes to a hub, by the hub's own client and a small hub on this machine."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import distseg
from distseg import cli
from distseg.export.push import push_folder
from distseg.records.errors import UserError

pytest.importorskip("huggingface_hub")


class Hub(ThreadingHTTPServer):
    """What a hub's client asks for: a repository, how files travel, a commit.

    made: what was asked of new repositories. files: bytes by path, as the commits brought them.
    tokens: of all requests. refuse: a status that the next commit gets.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuse = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._say(404, {"error": f"unknown {self.path}"})

    def do_POST(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers["Content-Length"] or 0))
        hub.tokens.add(self.headers["Authorization"])
        if self.path == "/api/repos/create":
            hub.made.append(json.loads(body))
            self._say(200, {"url": f"{hub.url}/me/cells"})
        elif self.path == "/api/validate-yaml":
            self._say(200, {"errors": [], "warnings": []})
        elif self.path == "/api/models/me/cells/preupload/main":
            names = [one["path"] for one in json.loads(body)["files"]]
            files = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._say(200, {"files": files})
        elif self.path == "/api/models/me/cells/commit/main" and hub.refuse:
            self._say(hub.refuse, {"error": "you may not write here"})
        elif self.path == "/api/models/me/cells/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    hub.files[value["path"]] = base64.b64decode(value["content"])
            url = f"{hub.url}/me/cells/commit/{'0' * 40}"
            self._say(200, {"success": True, "commitUrl": url, "commitOid": "0" * 40})
        else:
            self._say(404, {"error": f"unknown {self.path}"})

    def _say(self, status: int, record: dict[str, Any]) -> None:
        data = json.dumps(record).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """HF_ENDPOINT is read when the client is imported, which may have been long before."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield server
    server.shutdown()
    server.server_close()


def visibility(made: dict[str, Any]) -> str:
    """What a client asks for: newer ones in a word, older ones by a flag."""
    return str(made.get("visibility") or ("private" if made.get("private") else "public"))


def exported(folder: Path) -> Path:
    """What an export leaves, and files of other kinds that somebody put beside it."""
    (folder / "members" / "a_fold0").mkdir(parents=True)
    (folder / "data").mkdir()
    for name in ("README.md", "config.yaml", "ensemble.json", "export.json", "data/values.json"):
        (folder / name).write_text(f"---\n{name}: 1\n---\n")
    (folder / "members" / "a_fold0" / "s.safetensors").write_bytes(bytes(range(256)))
    for name in ("data/patient.png", "images.zip", "train.csv", "members/mask.tif", "coco.json"):
        (folder / name).write_bytes(b"secret")
    return folder


def test_the_whole_export_arrives_and_predicts(trained: Path, tmp_path: Path, hub: Hub) -> None:
    command = ["export", str(trained), "--out", str(tmp_path / "model"), "--push", "me/cells"]
    assert cli.main(command) == 0
    (made,) = hub.made
    assert (made["name"], made["organization"], visibility(made)) == ("cells", "me", "private")
    assert hub.tokens == {"Bearer hf_of_a_test"}
    written = tmp_path / "model"
    names = {p.relative_to(written).as_posix() for p in written.rglob("*") if p.is_file()}
    assert set(hub.files) == names, "all that the export wrote"
    for name, data in hub.files.items():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / name).write_bytes(data)
        assert data == (written / name).read_bytes()
    assert distseg.load_ensemble(tmp_path / "back")


def test_no_image_and_no_table_of_the_data_leaves(tmp_path: Path, hub: Hub) -> None:
    address = push_folder(exported(tmp_path / "model"), "me/cells", public=True)
    assert address == f"{hub.url}/me/cells" and visibility(hub.made[0]) == "public"
    assert sorted(hub.files) == sorted([
        "README.md", "config.yaml", "data/values.json", "ensemble.json", "export.json",
        "members/a_fold0/s.safetensors",
    ])  # fmt: skip
    assert hub.files["members/a_fold0/s.safetensors"] == bytes(range(256))


def test_a_failure_is_one_line_and_the_folder_stays(
    trained: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fails(out: str) -> str:
        command = ["export", str(trained), "--out", str(tmp_path / out), "--push", "me/cells"]
        assert cli.main(command) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"{tmp_path / out} is written, but was not pushed to me/cells: " in line
        assert (tmp_path / out / "ensemble.json").is_file()
        return line

    hub.refuse = 403
    assert "403" in fails("refused")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:  # a port that nobody answers on
        closed = f"http://127.0.0.1:{other.server_address[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", closed)
    assert "refused" in fails("absent").lower()


@pytest.mark.parametrize("name", ["cells", "me/cells/more", "me/../cells", "me/c lls"])
def test_a_wrong_name_is_refused_before_anything_is_written(
    trained: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError, match="--push"):
        distseg.export_run(trained, tmp_path / "out", push=name)
    assert not (tmp_path / "out").exists()


def test_nothing_is_pushed_unless_it_is_asked_for(trained: Path, tmp_path: Path, hub: Hub) -> None:
    assert cli.main(["export", str(trained), "--out", str(tmp_path / "model")]) == 0
    assert hub.made == [] and hub.files == {} and hub.tokens == set()
    command = ["export", str(trained), "--out", str(tmp_path / "other"), "--public"]
    assert cli.main(command) == 2
