"""`mae_jax new`."""

import argparse
import importlib.util
import keyword
import re
import sys
from pathlib import Path

from mae_jax.core.errors import UserError

HELP = "start a method of your own: its file, a tiny config, a test and a page"

DESCRIPTION = """\
Write a method of your own that runs at once, a plain masked autoencoder with three places marked for your masking,
your target and your loss:

  DIR/NAME.py             the method           DIR/configs/tiny.py    trains it on digits within a minute
  DIR/tests/test_NAME.py  what it must hold    DIR/docs/NAME.md       what it is, and what was measured

With --in-repo the same goes to its places in a clone of mae_jax. docs/your_own_method.md goes on from there.
"""

TINY_LINE = """\
    "{name}": dict(
        image_size=(8, 16), patch=(2, 4), channels=2, dim=16, depth=2, heads=2, decoder_dim=12, decoder_depth=1,
        decoder_heads=3,
    ),"""
FILE = 'str(Path(__file__).resolve().parents[1] / "my_method.py")'  # how the template names the method


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments to its parser."""
    parser.description = DESCRIPTION
    parser.add_argument("name", metavar="NAME", help="of the method: a Python name, as my_method")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="folder to write into (default: ./NAME)")
    parser.add_argument("--in-repo", action="store_true", help="write into a clone of mae_jax (--dir, default: here)")


def run(args: argparse.Namespace) -> int:
    """Run the verb; returns the exit status."""
    name = args.name
    check_name(name)
    root = args.dir or Path("." if args.in_repo else name)
    files = in_repo(name, root) if args.in_repo else outside(name, root)
    write(files)
    for path in files:
        print(f"  {path}")
    method, config, test, _ = files
    print(f"\nnext:\n  pytest {test}\n  mae_jax train --config {config} --debug")
    print(f"  mae_jax train --config {config} --workdir runs/{name}")
    if args.in_repo:
        print(f"\nadd to TINY in tests/tiny_methods.py, which holds it to every check:\n{TINY_LINE.format(name=name)}")
        print(
            "\nthen `python tests/commands/golden_texts.py`, and what else ARCHITECTURE.md lists (How to add a method)."
        )
    else:
        print(f"\nwhat is yours to change is marked: YOUR MASKING, YOUR TARGET and YOUR LOSS in {method}.")
    return 0


def check_name(name: str) -> None:
    """Raise UserError where a method cannot be called so."""
    from mae_jax import methods

    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        clean = re.sub(r"\W+", "_", name.removesuffix(".py")).strip("_").lower()
        hint = f", as '{clean}'" if clean.isidentifier() and not keyword.iskeyword(clean) else ", as my_method"
        raise UserError(f"'{name}' cannot name a method: a Python name is expected (letters, digits, _){hint}.")
    if name in (*methods.names(), *methods.offered(), "base"):
        raise UserError(f"a method '{name}' exists already (`mae_jax list`); take another name.")
    if name in sys.stdlib_module_names or importlib.util.find_spec(name) is not None and not Path(name).exists():
        raise UserError(f"a Python module '{name}' is installed, and {name}.py would hide it; take another name.")


def class_name(name: str, template: str) -> str:
    """my_method -> MyMethod; with "Method" behind it where the template uses that name already."""
    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    used = camel != "MyMethod" and re.search(rf"\b{camel}\b", template)  # which is the template's own place for it
    return f"{camel}Method" if used else camel


def templates() -> tuple[str, str, str, str]:
    """The texts of method, config, test and page."""
    folder = Path(__file__).parents[1] / "template"
    method, config, test, page = (
        (folder / name).read_text() for name in ("method.py", "config.py", "test_method.py", "page.md")
    )
    return method, config, test, page


def outside(name: str, root: Path) -> dict[Path, str]:
    """{path: text} for a folder of the user's own."""
    paths = [root / f"{name}.py", root / "configs/tiny.py", root / f"tests/test_{name}.py", root / f"docs/{name}.md"]
    texts = [re.sub(r"# (CONFORMANCE|END)\n", "", text) for text in templates()]
    return filled(name, paths, texts)


def in_repo(name: str, root: Path) -> dict[Path, str]:
    """{path: text} for a clone: the method is found by its name, and our own tests hold it to the table."""
    if not (root / "mae_jax/methods/base.py").is_file() or not (root / "tests/tiny_methods.py").is_file():
        raise UserError(
            f"--in-repo writes into a clone of mae_jax, and {root.absolute()} is none: go there, or name it by --dir."
        )
    paths = [
        root / f"mae_jax/methods/{name}.py", root / f"configs/{name}/tiny_digits.py",
        root / f"tests/methods/test_{name}.py", root / f"docs/methods/{name}.md",
    ]  # fmt: skip
    method, config, test, page = (text.replace(FILE, '"my_method"') for text in templates())
    test = re.sub(r"# CONFORMANCE\n.*# END\n", "", test, flags=re.DOTALL)
    config, test = (re.sub("from pathlib import Path\n(\n)?", "", text) for text in (config, test))
    return filled(name, paths, [method, config, test, page])


def filled(name: str, paths: list[Path], texts: list[str]) -> dict[Path, str]:
    """The texts with the names in their places."""
    cls = class_name(name, texts[0])
    return {
        path: text.replace("my_method", name).replace("MyMethod", cls).replace("CONFIG", paths[1].as_posix())
        for path, text in zip(paths, texts, strict=True)
    }


def write(files: dict[Path, str]) -> None:
    """Write all files, or none.

    Raises:
      UserError: one exists already, or its folder cannot be made.
    """
    there = [str(path) for path in files if path.exists()]
    if there:
        raise UserError(f"{', '.join(there)} exist(s) already, and nothing was written. Take another name or --dir.")
    done: list[Path] = []
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            done.append(path)
    except OSError as error:
        for path in done:
            path.unlink()
        raise UserError(f"cannot write {error.filename}: {error.strerror}. Nothing was written.") from None
