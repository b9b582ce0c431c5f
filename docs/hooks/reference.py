"""Pages made from the code: every config key, every data source, every verb, and the API, as Markdown.

Read from source text (ast), so that no page needs jax; only the verbs' own help imports the (light) command line.
"""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mae_jax"
SECTIONS = ("data", "augment", "optim", "train", "transfer", "checkpoint", "eval", "mesh", "log")  # in reading order


class Key(NamedTuple):
    """One field of a dataclass, as its source says it."""

    name: str
    type: str
    default: str | None
    comment: str


def keys_of(path: Path, cls: str) -> list[Key]:
    """The fields of a dataclass, with the comment at the end of each (and those of the lines that belong to it)."""
    text = path.read_text()
    node = next(n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == cls)
    comments = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and "fmt: skip" not in token.string
    }
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and "ClassVar" not in ast.unparse(n.annotation)]
    found = []
    for field in fields:
        end = min([n.lineno for n in node.body if n.lineno > field.lineno], default=(node.end_lineno or 0) + 1)
        assert isinstance(field.target, ast.Name)
        said = " ".join(comments[line] for line in range(field.lineno, end) if line in comments)
        default = None if field.value is None else _default(field.value)
        found.append(Key(field.target.id, ast.unparse(field.annotation), default, said))
    return found


def _default(value: ast.expr) -> str:
    if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field"):
        made = next((k.value for k in value.keywords if k.arg == "default_factory"), None)
        return "{}" if made is not None and ast.unparse(made) == "dict" else "()"
    return ast.unparse(value)


def sections() -> dict[str, str]:
    """{section: class} of mae_jax/schema.py: SECTIONS."""
    for node in ast.parse((PACKAGE / "schema.py").read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "SECTIONS":
            assert isinstance(node.value, ast.Dict)
            return {ast.literal_eval(k): ast.unparse(v) for k, v in zip(node.value.keys, node.value.values) if k}
    raise AssertionError("mae_jax/schema.py has no SECTIONS")


def configs_page() -> str:
    """docs: every section and key of a config."""
    known = sections()
    order = [s for s in SECTIONS if s in known] + [s for s in known if s not in SECTIONS]
    parts = [CONFIGS_INTRO]
    for section in order:
        doc = docstring(PACKAGE / "schema.py", known[section])
        parts.append(f"## {section}\n\n{doc}\n\n{_table(keys_of(PACKAGE / 'schema.py', known[section]), section)}")
        if section == "data":
            parts.append("The keys that each source adds: [data sources](#data-sources).")
        if section == "augment":
            parts.append("The keys that each kind of input adds: [modalities](#modalities).")
    parts.append("## method\n\n`method.name` names the method; its other keys are the fields of the method's class.")
    for path, cls in methods():
        parts.append(
            f"### method.name={path.stem}\n\n{_first(path)} "
            f"[Its page](methods/{path.stem}.md), [its file](../mae_jax/methods/{path.name}).\n\n"
            f"{_attributes(docstring(path, cls))}\n\n{_table(keys_of(path, cls), 'method')}"
        )
    parts.append("## Modalities\n\nThe keys that kinds of input other than images add to `augment`.")
    for path, cls in modalities():
        parts.append(
            f"### {path.stem}\n\n{_attributes(docstring(path, cls))}\n\n"
            f"{_table(keys_of(path, cls), 'augment', path.stem + '_')}"
        )
    parts.append("## Data sources\n\n`data.source` names the source; these are the keys that it adds to `data`.")
    for name, (path, cls) in sources().items():
        keys = keys_of(path, cls)
        table = _table(keys, "data") if keys else "No further keys."
        parts.append(f"### data.source={name}\n\n{_attributes(docstring(path, cls))}\n\n{table}")
    return "\n\n".join(parts) + "\n"


CONFIGS_INTRO = """\
# Configs: every section and key

A config is a Python file with a docstring and `get_config(arg="")`, which returns a nested dict of the sections below;
what it leaves out has the default given here. On the command line, `--config.SECTION.KEY=VALUE` overrides a key as
often as you like, and `--config FILE.py:ARG` hands ARG to `get_config`. A mistyped key is answered with the nearest
one, before any device is touched.

```
mae_jax train --config configs/mae/vit_s16_imagenet.py:400 --workdir runs/mine \\
    --config.data.path=/my/images --config.optim.learning_rate=1e-3 --config.augment.mean='(0.5,0.5,0.5)'
```

What may change when a run is resumed: [architecture](../ARCHITECTURE.md#config-to-checkpoint).

*This page is written from [mae_jax/schema.py](../mae_jax/schema.py) and the fields of the methods and sources when the
site is built.*"""


def _table(keys: list[Key], section: str, prefix: str = "") -> str:
    commented = any(key.comment for key in keys)
    rows = ["| key | type | default |" + (" what it is |" if commented else ""), "|---|---|---|" + ("---|" * commented)]
    for key in keys:
        if section in ("data", "augment") and key.name == "options":
            continue  # filled from the source's or the modalities' own keys, never given
        default = "**must be given**" if key.default is None else _code(_shorten(key.default))
        cells = [f"`{section}.{prefix}{key.name}`", _code(_shorten(key.type)), default]
        cells += [_escape(key.comment)] if commented else []
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _code(text: str) -> str:
    ticks = "``" if "`" in text else "`"
    return f"{ticks}{text}{ticks}"


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _escape(text: str) -> str:
    """A comment as Markdown text: nothing in it is markup but `code`."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([|*_<\[\]\\])", r"\\\1", p) for p in pieces)


def docstring(path: Path, cls: str | None = None) -> str:
    """The docstring of a module, or of a class in it."""
    tree = ast.parse(path.read_text())
    node = tree if cls is None else next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls)
    return ast.get_docstring(node) or ""  # type: ignore[arg-type]


def _first(path: Path) -> str:
    return " ".join(docstring(path).split("\n\n")[0].split())


def _attributes(doc: str) -> str:
    """A docstring of ours as Markdown: what stands under Attributes or Args becomes a list."""
    lines, inside, base = [], False, 0
    for line in doc.splitlines():
        opened = re.match(r"(Attributes|Args):\s*(.*)$", line)
        if opened:
            inside, base = True, 0
            lines += ["", *([f"* {_fields(opened[2])}"] if opened[2] else [])]
            continue
        if inside and line and not line.startswith(" "):
            inside = False
            lines.append("")
        indent = len(line) - len(line.lstrip())
        if inside and line.strip():
            base = base or indent
            starts = indent == base and re.match(r"\s*[\w, ]+:", line)
            lines.append(f"* {_fields(line.strip())}" if starts else f"  {_escape(line.strip())}")
        else:
            lines.append(_escape(line.strip()) if not re.match(r"\s*[-*] ", line) else "- " + _escape(line.strip()[2:]))
    return re.sub(r"(\n(?!\n)[^-\n][^\n]*\n)(- )", r"\1\n\2", "\n".join(lines)).strip()


def _fields(text: str) -> str:
    """ "a, b: what" with the names as code."""
    names, _, rest = text.partition(":")
    return f"{', '.join(f'`{n.strip()}`' for n in names.split(','))}:{_escape(rest)}"


def methods() -> list[tuple[Path, str]]:
    """(file, class) of every method."""
    found = []
    for path in sorted((PACKAGE / "methods").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and any(ast.unparse(b) == "Method" for b in node.bases):
                found.append((path, node.name))
    return found


def modalities() -> list[tuple[Path, str]]:
    """(file, class) of every modality."""
    paths = sorted((PACKAGE / "modalities").glob("*.py"))
    return [
        (path, node.name) for path in paths for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(b) == "Modality" for b in node.bases)
    ]  # fmt: skip


def sources() -> dict[str, tuple[Path, str]]:
    """{name in data/sources: SOURCES: (file, class)}."""
    tree = ast.parse((PACKAGE / "data/sources/__init__.py").read_text())
    files = {
        alias.name: PACKAGE / "/".join(node.module.split(".")[1:])
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mae_jax.data.sources.")
        for alias in node.names
    }
    table = next(n.value for n in tree.body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == "SOURCES")
    assert isinstance(table, ast.Dict)
    pairs = [(ast.literal_eval(k), ast.unparse(v)) for k, v in zip(table.keys, table.values) if k]
    return {name: (files[cls].with_suffix(".py"), cls) for name, cls in pairs}


def verbs_page() -> str:
    """docs: every verb with its help."""
    sys.path.insert(0, str(ROOT))
    from mae_jax.commands.main import VERBS, make_parser, module

    parser = make_parser()
    choices = next(a.choices for a in parser._actions if getattr(a, "choices", None) and "train" in a.choices)
    parts = ["# Verbs\n\nWhat `mae_jax VERB --help` prints, taken from the commands when the site is built.\n",
             "| verb | what it does |\n|---|---|\n"
             + "\n".join(f"| [{verb}](#{verb}) | {_escape(module(verb).HELP)} |" for verb in VERBS)]  # fmt: skip
    for verb in VERBS:
        parts.append(f"## {verb}\n\n```text\n{choices[verb].format_help().rstrip()}\n```")  # type: ignore[index]
    return "\n\n".join(parts) + "\n"


def api_pages() -> dict[str, str]:
    """{"api/ROOM.md": the page of a room}: what mkdocstrings turns into the documentation of its modules."""
    pages, index = {}, ["# API reference\n\nFrom the docstrings. A room imports only rooms above it in this list, and"
                        " [ARCHITECTURE.md](../../ARCHITECTURE.md) says what belongs where.\n"]  # fmt: skip
    rooms = [r for r in ROOMS if (PACKAGE / r).is_dir()]
    rooms += sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py") if p.parent.name not in (*ROOMS, "commands"))
    alone = [p for p in ("api", "config", "schema") if (PACKAGE / f"{p}.py").is_file()]
    for room in [*alone, *rooms]:
        path = PACKAGE / room
        files = [path.with_suffix(".py")] if room in alone else sorted(path.rglob("*.py"))
        named = {_dotted(f): _summary(f) for f in files if docstring(f)}
        index.append(f"* [{room}]({room}.md): {_escape(named.get(f'mae_jax.{room}') or _about(named))}")
        body = "\n\n".join(f"## {name.removeprefix('mae_jax.')}\n\n::: {name}" for name in named)
        pages[f"api/{room}.md"] = f"# mae_jax.{room}\n\n{body}\n"
    pages["api/index.md"] = "\n".join(index) + "\n"
    return pages


ROOMS = ("core", "masking", "tokens", "targets", "losses", "augment", "nets", "methods", "teachers", "data", "eval",
         "train", "weights", "transfer", "interop")  # fmt: skip


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _summary(path: Path) -> str:
    return " ".join(docstring(path).split("\n\n")[0].split())


def _about(named: dict[str, str]) -> str:
    return ", ".join(name.rsplit(".", 1)[1] for name in named)
