"""``ranklens demo``: the pipeline on the bundled sample."""

from __future__ import annotations

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_RERANKER, RerankerSpec

DEPTH = 10


def demo(as_json: options.JsonOption = False) -> None:
    """Search Python's standard library: BM25, reranked by attention, evaluated.

    Makes the sample from your own Python's docstrings, pulls a small model (93 MB, once), and
    ends with a table. The second time it shows the table it kept.

    Example: ranklens demo
    """
    from ranklens.cli.output import note, print_json, warn
    from ranklens.cli.pipeline import run_pipeline
    from ranklens.cli.pipeline_report import print_metrics
    from ranklens.data.home import home
    from ranklens.data.load import load_collection
    from ranklens.data.work_folder import OtherSettingsError

    collection = load_collection("sample:pydocs")
    out = home() / "runs" / "demo"
    spec = RerankerSpec.parse(DEFAULT_RERANKER, None, None, None)
    try:
        metrics = run_pipeline(collection, out, spec, depth=DEPTH)
    except OtherSettingsError:
        note("something it depends on has changed since the last demo: starting again")
        metrics = run_pipeline(collection, out, spec, depth=DEPTH, overwrite=True)
    if as_json:
        print_json({"status": "ok", "collection": collection.name, **metrics})
        return
    warn(metrics["warnings"])
    print_metrics(metrics, collection.name)
    note(f"written to {out}")
    note(f"to look at it: ranklens report {out} -o report.html")
    note(f"the same by hand: ranklens run sample:pydocs --depth {DEPTH} --out runs/pydocs")
