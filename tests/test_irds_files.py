"""Files that ir_datasets cannot fetch: the message says which one to put where, and it helps."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import re
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.irds_files import no_fetching
from ranklens.data.load import load_collection

pytest_plugins = ["cli_fixtures"]

if find_spec("ir_datasets") is None:
    pytest.skip("the extra irds is not installed", allow_module_level=True)

# ir_datasets leaves members of zip files open.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
# Nobody listens on the discard port: a connection is refused at once.
URL = "http://127.0.0.1:9/tiny.zip"
ID = "ranklens-test/fetched"


def archive(name: str = "tiny") -> bytes:
    """Return a zip of a BEIR set."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        document = {"_id": "d1", "title": "Cats", "text": "They purr."}
        file.writestr(f"{name}/corpus.jsonl", json.dumps(document) + "\n")
        file.writestr(
            f"{name}/queries.jsonl", json.dumps({"_id": "q1", "text": "what purrs"}) + "\n"
        )
        file.writestr(f"{name}/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    return packed.getvalue()


@pytest.fixture
def define(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return a function that registers a BEIR set behind a download, and gives its MD5."""
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("IR_DATASETS_DL_TRIES", "1")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    import ir_datasets
    from ir_datasets.datasets import beir
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.util import Cache, ZipExtract, _DownloadConfig

    def make(url: str = URL, **more: object) -> str:
        md5 = hashlib.md5(archive()).hexdigest()
        definition = {"url": url, "expected_md5": md5, "cache_path": "tiny/source.zip", **more}
        base = tmp_path / "home" / "sets"
        config = _DownloadConfig(base_path=base, contents={"tiny": definition})
        config.home_path = tmp_path / "home"
        download = config["tiny"]
        documents = beir.BeirDocs(
            "tiny", ZipExtract(download, "tiny/corpus.jsonl"), beir.BeirTitleDoc
        )
        documents.docs_store = lambda: None
        documents.docs_iter = documents._docs_iter
        queries = Cache(ZipExtract(download, "tiny/queries.jsonl"), base / "queries.json")
        qrels = Cache(ZipExtract(download, "tiny/qrels/test.tsv"), base / "test.qrels")
        ir_datasets.registry.register(
            ID,
            Dataset(
                documents,
                beir.BeirQueries("tiny", queries, beir.GenericQuery),
                beir.BeirQrels(qrels, {}),
            ),
        )
        return md5

    yield make
    ir_datasets.registry._registered.pop(ID, None)
    # What is left open is found while its warning is ignored.
    gc.collect()


@pytest.mark.parametrize(
    ("more", "place", "size"),
    [
        # A large file is looked for by its MD5; a small one only where the dataset wants it.
        ({"size_hint": 9_000_000}, "downloads/{md5}", "9,000,000 bytes, "),
        ({}, "downloads/{md5}", ""),
        ({"size_hint": 1_234}, "sets/tiny/source.zip", "1,234 bytes, "),
    ],
)
def test_the_missing_file_is_named_and_putting_it_there_helps(
    define: Callable[..., str], tmp_path: Path, more: dict[str, int], place: str, size: str
) -> None:
    md5 = define(**more)
    path = tmp_path / "home" / place.format(md5=md5)
    named = f"could not provide '{ID}': it needs {URL} ({size}md5 {md5}); without a network put "
    with pytest.raises(MissingResourceError, match=re.escape(f"{named}that file at {path} (")):
        load_collection(f"irds:{ID}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(archive())
    collection = load_collection(f"irds:{ID}")
    assert [document.full_text for document in collection.documents] == ["Cats They purr."]
    assert {q: dict(g) for q, g in collection.qrels.items()} == {"q1": {"d1": 1}}


def test_another_file_in_its_place_is_called_that(
    define: Callable[..., str], tmp_path: Path
) -> None:
    md5 = define()
    path = tmp_path / "home" / "downloads" / md5
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    message = re.escape(f"{path} is not the file it should be, {URL} (md5 {md5})")
    with pytest.raises(MissingResourceError, match=message):
        load_collection(f"irds:{ID}")


def test_a_damaged_file_is_not_usable(define: Callable[..., str], tmp_path: Path) -> None:
    define(size_hint=1_234)
    path = tmp_path / "home" / "sets" / "tiny" / "source.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(archive()[:100])
    with pytest.raises(InvalidInputError, match=f"'{ID}' cannot be read: BadZipFile"):
        load_collection(f"irds:{ID}")


def test_without_fetching_nothing_is_asked_of_the_network(
    define: Callable[..., str], served: tuple[str, list[str]]
) -> None:
    url, requests = served
    define(url)
    with no_fetching(), pytest.raises(MissingResourceError, match="it is not on this disk"):
        load_collection(f"irds:{ID}")
    assert requests == []
    load_collection(f"irds:{ID}")
    assert requests == ["/tiny.zip"]
    with no_fetching():
        load_collection(f"irds:{ID}")
    assert len(requests) == 1


@pytest.fixture
def served() -> Iterator[tuple[str, list[str]]]:
    """Serve the archive, and return its URL and the list that requests are added to."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(archive())))
            self.end_headers()
            self.wfile.write(archive())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/tiny.zip", requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_known_dataset_is_missed_by_the_program_and_then_found(
    run_program: Callable[..., subprocess.CompletedProcess[str]],
    program_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    home = tmp_path / "irds"
    # Refused at once, wherever this runs.
    refused = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    program_environment.update(refused, IR_DATASETS_HOME=str(home), IR_DATASETS_DL_TRIES="1")
    done = run_program("retrieve", "irds:beir/scifact/test", "-o", tmp_path / "out.run")
    assert done.returncode == 4, done.stderr
    said = done.stderr.splitlines()[-1]
    assert "it needs https://" in said
    assert "md5 5f7d1de60b170fc8027bb7898e2efca1" in said
    place = home / "beir" / "scifact" / "source.zip"
    assert f"put that file at {place}" in said
    assert not (tmp_path / "out.run").exists()
    place.write_bytes(archive("scifact"))
    done = run_program("retrieve", "irds:beir/scifact/test", "-o", tmp_path / "out.run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.run").read_text().startswith("q1 Q0 d1 1 ")
