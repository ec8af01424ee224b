"""Models by hub id, against a hub of one repository on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.models import installed, pull, resolve

constants = pytest.importorskip("huggingface_hub.constants")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"w" * 5000,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"not wanted",
    "original/model.safetensors": b"not wanted",
}


class Hub(ThreadingHTTPServer):
    """Answers what a snapshot download asks: the revision, the tree, and each file."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files = dict(FILES)
        self.asked: list[str] = []


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append(path)
        if path.startswith(("/api/models/org/gated", "/org/gated")):
            self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif path.startswith("/api/models/org/broken"):
            self.send(500, b"{}")
        elif path in {"/api/models/org/tiny", "/api/models/org/tiny/revision/main"}:
            names = [{"rfilename": name} for name in self.server.files]
            self.json({"id": "org/tiny", "sha": COMMIT, "siblings": names})
        elif path.startswith("/api/models/org/tiny/revision/"):
            self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/org/tiny/tree/"):
            self.json([self.described(name) for name in self.server.files])
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            content = self.server.files[path.split("/", 5)[5]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.send(200, content, {"X-Repo-Commit": COMMIT, "ETag": etag})
        else:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def described(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": oid}

    def json(self, content: object) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("RANKLENS_HOME", str(tmp_path / "home"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_pull_takes_the_safetensors_snapshot(
    hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    path = pull("org/tiny", progress=lines.append)

    assert path.name == COMMIT
    found = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert found == {"config.json", "model.safetensors", "tokenizer.json"}
    assert lines[0] == "downloading org/tiny"
    assert capfd.readouterr() == ("", "")
    listed = next(model for model in installed() if model.state == "hub cache")
    assert listed.name == "org/tiny"
    assert listed.size >= 5000

    hub.asked.clear()
    resolved = resolve("org/tiny")
    assert (resolved.path, resolved.revision) == (path, COMMIT)
    assert resolve("org/tiny", revision=COMMIT) == resolved
    assert hub.asked == []


def test_resolve_downloads_only_when_asked(hub: Hub) -> None:
    with pytest.raises(MissingResourceError, match=r"this machine: ranklens models pull org/tiny$"):
        resolve("org/tiny")
    assert hub.asked == []
    assert resolve("org/tiny", download=True).revision == COMMIT


def test_an_incomplete_snapshot_is_not_taken(hub: Hub) -> None:
    path = pull("org/tiny")
    (path / "model.safetensors").unlink()
    with pytest.raises(MissingResourceError, match="models pull org/tiny --revision main"):
        resolve("org/tiny", revision="main")
    assert resolve("org/tiny", download=True).path == path
    assert (path / "model.safetensors").is_file()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("spec", "revision", "message"),
    [
        ("org/none", None, "no model org/none.*`hf auth login`.*path of a local model folder"),
        ("org/gated", None, "org/gated is gated: accept its terms.*`hf auth login`"),
        ("org/tiny", "v9", "org/tiny has no revision 'v9'"),
        ("org/broken", None, r"org/broken could not be downloaded .*HF_HUB_OFFLINE"),
        ("org/a--b", None, "'org/a--b' is not a hub id"),
    ],
)
def test_what_the_hub_refuses_is_explained(spec: str, revision: str | None, message: str) -> None:
    with pytest.raises(MissingResourceError, match=message):
        pull(spec, revision=revision)


def test_a_model_without_safetensors_is_refused(hub: Hub) -> None:
    del hub.files["model.safetensors"]
    with pytest.raises(InvalidInputError, match="the hub model org/tiny has no weights"):
        pull("org/tiny")


def test_a_hub_that_is_down(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = pull("org/tiny")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingResourceError, match=r"org/other could not .*refused.*local model"):
        pull("org/other")
    assert pull("org/tiny") == cached


@pytest.mark.usefixtures("hub")
def test_a_hub_that_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingResourceError, match=r"lacks it \(HF_HUB_OFFLINE is set\)"):
        pull("org/tiny")
