"""``ranklens reproduce``: verdicts, what it says of data that is not there, its file."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from ranklens.eval.reference import ReferenceRow, read_reference

pytest_plugins = ["cli_fixtures", "dense_fixtures"]

if find_spec("yaml") is None:
    pytest.skip("the extra irds, which brings PyYAML, is not installed", allow_module_level=True)

Call = Callable[..., "subprocess.CompletedProcess[str]"]
SHIPPED = Path(__file__).resolve().parents[1] / "benchmarks" / "reference.yaml"

# The candidates `all` list documents by id, d0 d1 d10 d11 d2 …; the first relevant one of the
# four queries is d0, d2, d4, d6: at ranks 1, 5, 7, 9.
RR = (1 + 1 / 5 + 1 / 7 + 1 / 9) / 4
SETS = """
sets:
  tiny: {folder: collection, queries: 4, documents: 12}
  part: {folder: collection, queries: 4, documents: 13}
  fewer: {folder: collection, queries: 5}
  absent: {folder: nowhere}
  remote: {irds: beir/nfcorpus/test, folder: nfcorpus}
"""


ALL = "kind: candidates\n    candidates: all"


def condition(name: str, rows: str, more: str = "", tolerance: float = 0.0001) -> str:
    """Return a condition that evaluates the candidates ``all``, or what ``more`` says."""
    made = more or ALL
    return (
        f"  - name: {name}\n    {made}\n    tolerance: {tolerance}\n    source: by hand\n"
        f"    rows:\n      {rows}\n"
    )


SEARCH = "kind: retrieval\n    retriever: bm25"
DENSE = "kind: retrieval\n    retriever: dense"
GOOD = condition("good", f"tiny: {{RR: {RR:.4f}}}")


@pytest.fixture
def reproduce(call: Call, collection: Path, tmp_path: Path) -> Call:
    """Return a function that writes rows of these conditions and runs the command on them."""
    assert collection.name == "collection"

    def run(conditions: str, *more: object, sets: str = SETS) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "rows.yaml"
        path.write_text(f"{sets}conditions:\n{conditions}")
        return call("reproduce", "--rows", path, "--collections", tmp_path, *more)

    return run


def test_a_row_within_its_tolerance_is_ok(reproduce: Call) -> None:
    done = reproduce(GOOD, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["status"] == "ok"
    (row,) = value["rows"]
    assert (row["row"], row["kind"], row["status"]) == ("good/tiny", "candidates", "OK")
    assert row["measures"]["RR"]["measured"] == pytest.approx(RR)
    assert "1 of 1 rows that ran are OK; 0 did not run" in done.stderr
    assert "good/tiny   RR        OK          0.3635     0.3635" in reproduce(GOOD).stdout


def test_a_row_that_is_off_says_by_how_much(reproduce: Call) -> None:
    off = condition("bad", f"tiny: {{RR: {RR + 0.02:.4f}, P@1: 0.25}}", tolerance=0.01)
    done = reproduce(GOOD + off)
    assert done.returncode == 6
    assert "bad/tiny    RR        off by 0.0200     0.3635     0.3835      -0.0200" in done.stdout
    assert "bad/tiny    P@1       OK" in done.stdout
    assert "1 of 2 rows that ran are OK" in done.stderr
    assert reproduce(GOOD + off, "good").returncode == 0
    assert json.loads(reproduce(GOOD + off, "--json").stdout)["status"] == "off"
    assert (
        reproduce(condition("bad", f"tiny: {{RR: {RR + 0.02:.4f}}}", tolerance=0.03)).returncode
        == 0
    )


def test_retrieval_is_searched_with_its_options(reproduce: Call) -> None:
    # Every query shares a word with its two relevant documents only, or first with them.
    searched = condition("search", "tiny: {R@1000: 1.0}", f"{SEARCH}\n    options: {{k1: 1.2}}")
    done = reproduce(searched, "--json")
    assert done.returncode == 0, done.stdout
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["retriever"], row["options"]) == ("bm25", {"k1": 1.2})
    assert "top 1000" in done.stderr


@pytest.mark.parametrize(
    ("conditions", "status", "reason"),
    [
        (condition("a", "absent: {RR: 1.0}"), "no data", "no folder {0}/nowhere"),
        (condition("a", "fewer: {RR: 1.0}"), "no data", "it has 4 judged queries, not 5"),
        (condition("a", "part: {RR: 1.0}", SEARCH), "no data", "it has 12 documents, not 13"),
        (
            condition("a", "tiny: {RR: 1.0}", "kind: candidates\n    candidates: splade"),
            "no data",
            "no candidates named 'splade' (it has: all)",
        ),
        (
            condition(
                "a",
                "tiny: {RR: 1.0}",
                "kind: retrieval\n    retriever: psychic\n    options: {model: crystal}",
            ),
            "not available",
            "this version has no retriever 'psychic' (it has: bm25, lucene",
        ),
    ],
)
def test_a_row_that_cannot_run_says_why(
    reproduce: Call, tmp_path: Path, conditions: str, status: str, reason: str
) -> None:
    done = reproduce(conditions, "--json")
    assert done.returncode == 4
    value = json.loads(done.stdout)
    assert value["status"] == "nothing ran"
    assert value["rows"][0]["status"] == status
    assert reason.format(tmp_path) in value["rows"][0]["reason"]
    text = reproduce(conditions + GOOD)
    assert text.returncode == 0
    assert status in text.stdout
    assert reason.format(tmp_path) in text.stderr
    assert "1 of 1 rows that ran are OK; 1 did not run" in text.stderr


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        (condition("a", "tiny: {nDGC@10: 1.0}"), "unknown measure 'nDGC@10'"),
        (
            condition("a", "tiny: {RR: 1.0}", f"{SEARCH}\n    options: {{k2: 1}}"),
            "row 'a/tiny': the retriever has no option 'k2'; it has ",
        ),
        (
            condition("a", "tiny: {RR: 1.0}", f"{SEARCH}\n    options: {{k1: high}}"),
            "row 'a/tiny': the option 'k1' cannot be 'high'",
        ),
        (
            condition("a", "tiny: {RR: 1.0}", f"{SEARCH}\n    options: {{k1: true}}"),
            "row 'a/tiny': the option 'k1' cannot be True",
        ),
        (
            condition("a", "tiny: {RR: 1.0}", f"{SEARCH}\n    options: {{passages: 3}}"),
            "row 'a/tiny': the option 'passages' cannot be 3",
        ),
        (
            condition("a", "tiny: {RR: 1.0}", f"{DENSE}\n    options: {{model: 3}}"),
            "row 'a/tiny': the option 'model' cannot be 3",
        ),
        (
            condition("a", "tiny: {RR: 1.0}", f"{SEARCH}\n    options: {{rm3: true}}"),
            "--rm3 needs --retriever lucene",
        ),
    ],
)
def test_a_row_that_fails_does_not_stop_the_others(
    reproduce: Call, conditions: str, reason: str
) -> None:
    done = reproduce(conditions + GOOD, "--json")
    assert done.returncode == 6
    first, second = json.loads(done.stdout)["rows"]
    assert (first["status"], second["status"]) == ("failed", "OK")
    assert reason in first["reason"]


def test_an_interruption_tells_what_is_measured(
    reproduce: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ranklens.cli import reference_runs

    measure = reference_runs.reproduce_row

    def stopped(row: ReferenceRow, folders: Path | None) -> reference_runs.Outcome:
        if row.name.startswith("second"):
            raise KeyboardInterrupt
        return measure(row, folders)

    monkeypatch.setattr(reference_runs, "reproduce_row", stopped)
    done = reproduce(GOOD + condition("second", "tiny: {RR: 1.0}"))
    assert done.returncode == 7
    assert "good/tiny   RR        OK " in done.stdout
    assert "error: interrupted behind 1 of 2 rows" in done.stderr


def test_a_set_without_judgements_is_no_data(reproduce: Call, collection: Path) -> None:
    toml = collection / "collection.toml"
    toml.write_text(toml.read_text().replace('qrels = "qrels.txt"\n', ""))
    unknown = "sets:\n  tiny: {folder: collection}\n"
    done = reproduce(condition("a", "tiny: {RR: 1.0}", SEARCH), "--json", sets=unknown)
    assert done.returncode == 4
    (row,) = json.loads(done.stdout)["rows"]
    assert row["status"] == "no data"
    assert row["reason"].endswith("is not that set: it has no judgements")
    assert "searching" not in done.stderr


def test_rows_of_vectors_run_with_a_model_that_is_here(
    reproduce: Call, call: Call, tiny_encoder: Path
) -> None:
    for module in ("sentence_transformers", "faiss", "ranx"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    options = f"options: {{model: {tiny_encoder}, faiss: flat}}"
    fused = f"kind: retrieval\n    retriever: hybrid\n    {options[:-1]}, fusion: rrf}}"
    # Vectors leave no document out: all twelve are found.
    rows = condition("dense", "tiny: {R@1000: 1.0, Judged@12: 0.25}", f"{DENSE}\n    {options}")
    rows += condition("hybrid", "tiny: {R@1000: 1.0, Judged@12: 0.25}", fused)
    done = reproduce(rows, "--json")
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout)["rows"]
    assert [(row["row"], row["retriever"]) for row in found] == [
        ("dense/tiny", "dense"),
        ("hybrid/tiny", "hybrid"),
    ]


@pytest.mark.parametrize("retriever", ["dense", "hybrid"])
def test_no_model_is_pulled(reproduce: Call, tmp_path: Path, retriever: str) -> None:
    more = f"kind: retrieval\n    retriever: {retriever}\n    options: {{model: minilm-l6}}"
    done = reproduce(condition("a", "tiny: {RR: 1.0}", more), "--json")
    assert done.returncode == 4
    (row,) = json.loads(done.stdout)["rows"]
    assert row["status"] == "no data"
    assert "minilm-l6" in row["reason"]
    assert row["reason"].endswith(": ranklens models pull minilm-l6")
    assert not (tmp_path / "home" / "ranklens").exists()


def test_shipped_rows_ask_for_what_the_retrievers_have(
    shipped: dict[str, ReferenceRow],
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "irds"))
    names = {row.name for row in shipped.values() if row.kind == "retrieval"}
    done = call("reproduce", "--rows", SHIPPED, "--collections", tmp_path, "--json", *names)
    rows = json.loads(done.stdout)["rows"]
    assert {row["row"] for row in rows} == names
    # Not one is refused for its retriever or options: only the data lacks.
    assert {row["status"] for row in rows} == {"no data"}
    assert done.returncode == 4


def test_without_collections_nothing_is_fetched(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("ir_datasets") is None:
        pytest.skip("the extra irds is not installed")
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "irds"))
    path = tmp_path / "rows.yaml"
    path.write_text(f"{SETS}conditions:\n{condition('a', 'remote: {RR: 1.0}', SEARCH)}")
    done = call("reproduce", "--rows", path)
    assert done.returncode == 4
    assert "no folder 'nfcorpus' (give --collections DIR)" in done.stderr
    assert "'beir/nfcorpus/test': it needs https://" in done.stderr
    assert "md5 a89dba18a62ef92f7d323ec890a0d38d" in done.stderr
    assert "(it is not on this disk)" in done.stderr


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Register a set that ir_datasets has, and return its id."""
    if find_spec("ir_datasets") is None:
        pytest.skip("the extra irds is not installed")
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "irds"))
    import ir_datasets

    paths = {}
    # The query is the best match of itself, and no answer.
    for kind, text in {
        "docs_tsv": "q1\tcats cats\nd1\tcats purr\nd2\tdogs bark\n",
        "queries_tsv": "q1\tcats\n",
        "qrels_trec": "q1 0 d1 1\n",
    }.items():
        paths[kind] = str(tmp_path / kind)
        Path(paths[kind]).write_text(text)
    identifier = "ranklens-test/reproduced"
    ir_datasets.registry.register(identifier, ir_datasets.create_dataset(**paths))
    yield identifier
    del ir_datasets.registry._registered[identifier]


@pytest.mark.parametrize(("remove", "reciprocal"), [("true", 1.0), ("false", 0.5)])
def test_what_ir_datasets_has_is_taken(
    reproduce: Call, registered: str, remove: str, reciprocal: float
) -> None:
    more = f"{SEARCH}\n    remove_query: {remove}"
    sets = f"sets:\n  pets: {{irds: {registered}, folder: pets}}\n"
    done = reproduce(condition("a", f"pets: {{RR: {reciprocal}}}", more), "--json", sets=sets)
    assert done.returncode == 0, done.stdout


def test_rows_are_listed_and_chosen_by_name(reproduce: Call) -> None:
    several = GOOD + condition("search", "tiny: {R@1000: 1.0, nDCG@10: 1.0}", SEARCH)
    listed = reproduce(several, "--list")
    assert listed.returncode == 0
    assert "2 rows" in listed.stdout
    assert "search/tiny   retrieval    bm25      R@1000 1.0000, nDCG@10 1.0000" in listed.stdout
    rows = json.loads(reproduce(several, "search", "--list", "--json").stdout)["rows"]
    assert [row["row"] for row in rows] == ["search/tiny"]
    assert rows[0]["source"] == "by hand"
    unknown = reproduce(several, "lucene/tiny")
    assert unknown.returncode == 2
    assert "no row 'lucene/tiny' in " in unknown.stderr
    assert "conditions are good, search; rows of that set: good/tiny, search/tiny" in unknown.stderr


def test_files_that_are_not_there_are_named(call: Call, tmp_path: Path) -> None:
    done = call("reproduce")
    assert done.returncode == 4
    assert "no reference rows at benchmarks/reference.yaml" in done.stderr
    assert "give --rows FILE" in done.stderr
    done = call("reproduce", "--rows", SHIPPED, "--collections", tmp_path / "none")
    assert done.returncode == 4
    assert f"--collections {tmp_path / 'none'}: there is no such folder" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{folder: collection, queries: 4", "{folder: [, queries: 4", "rows.yaml:3: not YAML ("),
        ("kind: candidates", "kind: magic", "condition 'good': 'kind' is 'magic'; choose retr"),
        ("tolerance", "tolerence", "condition 1: unknown key 'tolerence'; the keys are candida"),
        ("    source: by hand\n", "", "condition 'good': the key 'source' is missing"),
        ("    candidates: all\n", "", "condition 'good': the key 'candidates' is missing"),
        ("tolerance: 0.0001", "tolerance: small", "'tolerance' must be a number, got 'small'"),
        ("tolerance: 0.0001", "tolerance: true", "'tolerance' must be a number, got True"),
        ("tolerance: 0.0001", "tolerance: -1", "'tolerance' must be at least 0 and finite"),
        ("tolerance: 0.0001", "tolerance: .nan", "'tolerance' must be at least 0 and finite"),
        ("tiny: {RR", "huge: {RR", "row 'good/huge': there is no set 'huge'"),
        ("{RR: 0.3635}", "{RR: high}", "row 'good/tiny': 'RR' must be a number, got 'high'"),
        ("{RR: 0.3635}", "{}", "row 'good/tiny': no measure is expected"),
        ("{RR: 0.3635}", "0.3635", "row 'good/tiny': expected a table, got 0.3635"),
        ("queries: 4", "queries: four", "set 'tiny': 'queries' must be an integer, got 'four'"),
        ("{folder: nowhere}", "{}", "set 'absent': it needs the key 'irds' or 'folder'"),
        ("{folder: nowhere}", "here", "set 'absent': expected a table, got 'here'"),
        ("name: good", "name: 3", "condition 1: 'name' must be text, got 3"),
        (
            "    tol",
            "    remove_query: true\n    tol",
            "'remove_query' says nothing to the kind 'can",
        ),
        (
            "    candidates: all",
            "    candidates: all\n    retriever: bm25",
            "'retriever' says noth",
        ),
        (
            "kind: candidates",
            "kind: retrieval",
            "'candidates' says nothing to the kind 'retrieval'",
        ),
        ("{RR: 0.3635}", "{RR: .nan}", "row 'good/tiny': expected a measure and its finite value"),
        ("{RR: 0.3635}", "{10: 0.5}", "a measure and its finite value, got {10: 0.5}"),
        (ALL, f"{SEARCH}\n    options: {{1: 2, k1: 1}}", "an option is a name with text, a fin"),
        (
            ALL,
            f"{SEARCH}\n    options: {{k1: 2020-01-01}}",
            "got {'k1': datetime.date(2020, 1, 1",
        ),
        (ALL, f"{SEARCH}\n    options: {{k1: .inf}}", "true or false, got {'k1': inf}"),
        ("{folder: nowhere}", "2020-99-99", "not YAML that can be read (month must be in 1..12"),
        ("{folder: nowhere}", "[" * 5000, "not YAML that can be read (maximum recursion depth"),
    ],
)
def test_a_broken_file_names_row_and_key(
    reproduce: Call, tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = f"{SETS}conditions:\n{GOOD}"
    assert old in text
    path = tmp_path / "broken" / "rows.yaml"
    path.parent.mkdir()
    path.write_text(text.replace(old, new, 1))
    done = reproduce(GOOD, "--rows", path)
    assert done.returncode == 5
    assert str(path) in done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (GOOD + GOOD, "there are two rows 'good/tiny'"),
        ("  []\n", "there are no rows"),
        ("  good\n", "'conditions' must be a list, got 'good'"),
    ],
)
def test_a_file_of_no_or_double_rows_is_refused(
    reproduce: Call, conditions: str, message: str
) -> None:
    done = reproduce(conditions)
    assert (done.returncode, message in done.stderr) == (5, True), done.stderr


@pytest.fixture(scope="module")
def shipped() -> dict[str, ReferenceRow]:
    return {row.name: row for row in read_reference(SHIPPED)}


def published(folder: Path, name: str, *key: str) -> dict[tuple[str, ...], dict[str, str]]:
    with (folder / name).open(newline="", encoding="utf-8") as stream:
        table = csv.DictReader(stream, delimiter="\t")
        return {tuple(row[column] for column in key): row for row in table}


def test_shipped_figures_are_those_of_the_anchor_tables(
    shipped: dict[str, ReferenceRow], shared_collection: Callable[[str], Path]
) -> None:
    anchors = shared_collection("scifact").parents[1] / "anchors"
    if not anchors.is_dir():
        pytest.skip("the published figures (anchors) are not beside this checkout")
    beir = published(anchors, "pyserini_2cr_beir.tsv", "dataset")
    columns = {"lucene-flat": "flat", "lucene-multifield": "multifield", "bm25s": "flat"}
    for condition_name, column in columns.items():
        for (dataset,), cells in beir.items():
            assert shipped[f"{condition_name}/{dataset}"].expected == {
                measure: float(cells[f"bm25-{column}|{measure}"])
                for measure in ("nDCG@10", "R@100", "R@1000")
            }
    names = {
        "MAP": "AP(rel=2)",
        "MAP@100": "AP(rel=2)@100",
        "nDCG@10": "nDCG@10",
        "R@1K": "R(rel=2)@1000",
    }
    passages: dict[tuple[str, str], dict[str, float]] = {}
    for version in ("v1", "v2"):
        file = f"pyserini_2cr_msmarco-{version}-passage.tsv"
        for (name, topics), cells in published(anchors, file, "condition", "topics").items():
            scores = (score.split("=") for score in cells["scores"].split())
            passages[name, topics.removesuffix("-passage")] = {
                names.get(measure, measure): float(value) for measure, value in scores
            }
    for year in ("dl19", "dl20", "dl21", "dl22", "dl23"):
        assert shipped[f"lucene-dl/{year}"].expected == passages["bm25-default", year]
        assert shipped[f"lucene-dl-rm3/{year}"].expected == passages["bm25-rm3-default", year]
    candidates = {
        "bm25": "bm25-default",
        "bm25-rm3": "bm25-rm3-default",
        "splade": "splade-pp-ed-pytorch",
        "tas-b": "distilbert-kd-tasb-pytorch",
        "ada2": "openai-ada2",
    }
    for name, condition_name in candidates.items():
        rows = [row for row in shipped.values() if row.name.startswith(f"candidates-{name}/")]
        for row in rows:
            figures = passages[condition_name, row.collection.name]
            assert row.expected.items() <= figures.items()
    mteb = published(anchors, "mteb_results_beir.tsv", "model", "task", "split")
    tasks = {"scifact": "SciFact", "arguana": "ArguAna", "webis-touche2020": "Touche2020"}
    for set_name, task in tasks.items():
        cells = mteb["sentence-transformers__all-MiniLM-L6-v2", task, "test"]
        assert shipped[f"minilm-flat/{set_name}"].expected == {
            "nDCG@10": float(cells["ndcg_at_10"]),
            "R@100": float(cells["recall_at_100"]),
        }


def test_scifact_and_the_candidates_of_trec_dl_are_reproduced(
    call: Call, shared_collection: Callable[[str], Path]
) -> None:
    folders = shared_collection("scifact").parent
    shared_collection("trec-dl-2019")
    rows = ["bm25s/scifact", "candidates-bm25/dl19", "candidates-splade/dl19", "lucene-dl/dl19"]
    done = call("reproduce", "--rows", SHIPPED, "--collections", folders, *rows, "--json")
    assert done.returncode == 0, done.stderr
    found = {row["row"]: row for row in json.loads(done.stdout)["rows"]}
    assert {name: found[name]["status"] for name in rows} == {
        "bm25s/scifact": "OK",
        "candidates-bm25/dl19": "OK",
        "candidates-splade/dl19": "OK",
        # 16,999 passages are not MS MARCO.
        "lucene-dl/dl19": "no data",
    }
    bm25 = found["candidates-bm25/dl19"]["measures"]["nDCG@10"]
    assert round(bm25["measured"], 4) == 0.5058
    assert "it has 16,999 documents, not 8,841,823" in found["lucene-dl/dl19"]["reason"]
