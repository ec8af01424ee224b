"""``ranklens models``: what the model store holds."""

from __future__ import annotations

from typing import Annotated

import typer

from ranklens.cli import options

app = typer.Typer(
    no_args_is_help=True,
    help="List, pull and find models.",
    epilog="Example: ranklens models pull smollm2-135m",
)

_NAME = Annotated[str, typer.Argument(metavar="MODEL", help="A name, a hub id or a folder.")]
_REVISION = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]


@app.command("list")
def list_models(as_json: options.JsonOption = False) -> None:
    """List named models, and what else is on this machine.

    Example: ranklens models list
    """
    from ranklens.cli.output import print_json, print_table
    from ranklens.data.models.listing import installed

    models = installed()
    if as_json:
        rows = [
            {"name": m.name, "state": m.state, "path": str(m.path) if m.path else None,
             "base": m.base or None, "bytes": m.size, "licence": m.licence,
             "description": m.description}
            for m in models
        ]  # fmt: skip
        print_json({"status": "ok", "models": rows})
        return
    print_table(
        "models",
        ["name", "state", "base", "licence", "description", "MB"],
        [[m.name, m.state, m.base, m.licence, m.description, _megabytes(m.size)] for m in models],
        text_columns=5,
    )


@app.command("pull")
def pull(model: _NAME, revision: _REVISION = None, as_json: options.JsonOption = False) -> None:
    """Bring a model to this machine, checked, whole or not at all.

    Example: ranklens models pull smollm2-135m
    """
    from ranklens.cli.output import note, print_json, print_text
    from ranklens.data.models import pull as pull_model

    path = pull_model(model, revision=revision, progress=note)
    if as_json:
        print_json({"status": "ok", "model": model, "path": str(path)})
    else:
        print_text(str(path))


@app.command("path")
def path(model: _NAME, revision: _REVISION = None, as_json: options.JsonOption = False) -> None:
    """Print the folder of a model that is on this machine; of a trained one the adapter's.

    Example: ranklens models path smollm2-135m
    """
    from ranklens.cli.output import print_json, print_text
    from ranklens.data.models import resolve

    found = resolve(model, revision=revision)
    folder = found.adapter or found.path
    if as_json:
        base = None if found.base is None else found.base.spec
        print_json(
            {
                "status": "ok",
                "model": model,
                "path": str(folder),
                "revision": found.revision,
                "base": base,
            }
        )
    else:
        print_text(str(folder))


def _megabytes(size: int) -> str:
    """Return bytes as whole megabytes, small ones with a digit more; nothing for none."""
    return f"{size / 1e6:.{1 if size < 1e7 else 0}f}" if size else ""
