"""`mae_jax list`."""

import argparse
import ast
import dataclasses
from pathlib import Path

HELP = "show methods, configs, data sources and verbs"

DESCRIPTION = """\
Show what there is: methods with their title, config files (below ./configs, or --configs) with the first line of
their docstring, data sources with their fields, and verbs.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description = DESCRIPTION
    parser.add_argument("--configs", type=Path, default=Path("configs"), metavar="DIR", help="default: ./configs")


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    from mae_jax import methods
    from mae_jax.commands.main import VERBS, module
    from mae_jax.data.sources import SOURCES
    from mae_jax.methods.base import config_fields

    files = sorted(p for p in args.configs.rglob("*.py") if not p.name.startswith("_"))
    rows = {
        "methods": [(name, _method(methods, name)) for name in [*methods.names(), *methods.offered()]],
        "configs": [(str(p), _first_line(ast.get_docstring(ast.parse(p.read_text())))) for p in files],
        "data sources": [
            (name, ", ".join(f"data.{f}" for f in config_fields(cls)) or "no fields") for name, cls in SOURCES.items()
        ],
        "verbs": [(verb, module(verb).HELP) for verb in VERBS],
    }
    for title, found in rows.items():
        print(title)
        width = max((len(name) for name, _ in found), default=0)
        for name, text in found or [("(none)", f"no config files below {args.configs}")]:
            print(f"  {name:<{width}}  {text}")
        print()
    return 0


def _method(methods, name: str) -> str:
    import importlib

    cls = methods.get(name)
    title = " ".join((importlib.import_module(cls.__module__).__doc__ or "").split("\n\n")[0].split())
    return f"{title}  [{', '.join(f.name for f in dataclasses.fields(cls) if f.metadata.get('config', True))}]"


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]
