"""What mkdocs is told beyond docs/: generated pages, pages from the root, links to source files, the menu.

The same Markdown is read on GitHub, where a link to ../mae_jax/methods/mae.py opens the file. Here each such file
becomes a page of its own, so that no link depends on where the repository lies.
"""

import logging
import os
import posixpath
import re
from pathlib import Path

import reference

ROOT = Path(__file__).parents[2]
# Files of the root that are pages, and where.
PAGES = {"README.md": "quickstart.md", "ARCHITECTURE.md": "architecture.md", "CONTRIBUTING.md": "contributing.md",
         "RESULTS.md": "results.md", "CHANGELOG.md": "changelog.md"}  # fmt: skip
# The menu. What is not there (yet) is left out; a page that no line names is put under "More".
NAV: list[tuple[str, list[tuple[str, str]] | str]] = [
    ("Home", [("Contents", "index.md"), ("Quickstart", "quickstart.md")]),
    ("Train", [
        ("Your own data", "data.md"), ("Videos", "video.md"), ("Point clouds", "points.md"), ("Audio", "audio.md"),
        ("Prepare once", "prepare.md"), ("Augmentation", "augment.md"), ("Parallelism", "parallelism.md"),
        ("Configs: every key", "configs.md"), ("Verbs", "verbs.md"), ("Reference runs", "reference_runs.md"),
        ("Before a run", "compile.md"), ("Launching", "launch.md"), ("Teachers", "teachers.md"),
        ("Doctor", "doctor.md"),
        ("Speed", "speed.md"), ("Reliability", "reliability.md"), ("Security", "security.md"),
    ]),
    ("Use", [
        ("Evaluation", "evaluation.md"), ("Fine-tuning", "finetune.md"), ("Segmentation", "segmentation.md"),
        ("Weights", "weights.md"), ("As a library", "library.md"),
        ("Pictures", "pictures.md"), ("Gallery", "gallery.md"),
    ]),
    ("Extend", [
        ("Your own method", "your_own_method.md"), ("Adding a modality", "adding-a-modality.md"),
        ("Architecture: adding a method", "architecture.md"),
        ("Contributing", "contributing.md"),
    ]),
    ("Methods", [("Results", "results.md")]),
    ("API", [("Overview", "api/index.md")]),
    ("Changes", "changelog.md"),
]  # fmt: skip
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
CODE_OR_LINK = re.compile(rf"`[^`]*`|{LINK.pattern}")  # what looks like a link in code is none
SUFFIXES = {".py": "python", ".sh": "bash", ".toml": "toml", ".cfg": "ini", ".yml": "yaml", ".ipynb": "json",
            ".json": "json", ".sbatch": "bash", ".yaml": "yaml", ".gpu": "docker", ".tpu": "docker",
            "": "text"}  # fmt: skip
MAX_SHOWN = 100_000  # bytes of a source file; a larger one is cut
log = logging.getLogger("mkdocs.hooks.mae_jax")


def markdown() -> dict[str, tuple[str, str]]:
    """{site path: (repository path, text)} of every page that is written for people: docs/ and the root."""
    pages = {}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        name = path.relative_to(ROOT / "docs").as_posix()
        pages[name] = (f"docs/{name}", path.read_text())
    for name, site in PAGES.items():
        if (ROOT / name).is_file():
            pages[site] = (name, (ROOT / name).read_text())
    return pages


def generated() -> dict[str, tuple[str, str]]:
    """{site path: (repository path that its links are relative to, text)} of the pages made from the code."""
    made = {"configs.md": reference.configs_page(), "verbs.md": reference.verbs_page(), **reference.api_pages()}
    return {site: (f"docs/{site}", text) for site, text in made.items()}


def targets(origin: str, text: str) -> set[str]:
    """The repository paths that a text links to, without anchors; links out of the repository are left out."""
    found = set()
    for _, link, _ in LINK.findall(prose(text)):
        if not re.match(r"[a-z]+:|#|/", link):
            found.add(posixpath.normpath(posixpath.join(posixpath.dirname(origin), link.partition("#")[0])))
    return found


def prose(text: str) -> str:
    """The text without its code."""
    text = re.sub(r"^(```+).*?^\1\s*$", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def site_path(path: str, pages: dict[str, str]) -> str | None:
    """Where a file of the repository is on the site; None if it is nowhere.

    Args: pages: {repository path: site path} of the pages.
    """
    if path in pages:
        return pages[path]
    if path.startswith("docs/") and (ROOT / path).is_file():
        return path.removeprefix("docs/")
    if (ROOT / path).exists():
        return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"
    return None


def source_page(path: str) -> str:
    """A page that shows a file, or lists a directory."""
    full, unsearched = ROOT / path, "---\nsearch:\n  exclude: true\n---\n"
    if full.is_dir():
        names = sorted(p.name for p in full.iterdir() if not p.name.startswith((".", "__pycache__")))
        return f"{unsearched}# {path}/\n\n" + "\n".join(f"* `{name}`" for name in names) + "\n"
    if full.suffix not in SUFFIXES and full.suffix != ".md":
        return f"{unsearched}# {path}\n\n{full.stat().st_size:,} bytes.\n"
    text = full.read_text(errors="replace")
    if full.suffix == ".md":
        return text
    cut = "" if len(text) <= MAX_SHOWN else f"\n\n*The first {MAX_SHOWN:,} characters.*"
    return f"{unsearched}# {path}\n\n````{SUFFIXES[full.suffix]}\n{text[:MAX_SHOWN].rstrip()}\n````{cut}\n"


def relink(site: str, origin: str, text: str, pages: dict[str, str]) -> str:
    """The text with every link to a file of the repository turned to the page that stands for it."""
    fence = None
    lines = []
    for line in text.split("\n"):
        mark = re.match(r"\s*(`{3,})", line)
        if mark and (fence is None or mark[1] == fence):
            fence = None if fence else mark[1]
        lines.append(line if fence or mark else _relink_line(site, origin, line, pages))
    return "\n".join(lines)


def _relink_line(site: str, origin: str, line: str, pages: dict[str, str]) -> str:
    """One line; a bar in a table's code loses the backslash that only GitHub wants."""

    def turn(match: re.Match[str]) -> str:
        link = match[2]
        if re.match(r"[a-z]+:|#|/", link):
            return match[0]
        path, mark, anchor = link.partition("#")
        full = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        to = site_path(full, pages)
        if to is None:
            log.warning(f"{origin} links to {link}, and there is no {full}")
            return match[0]
        return f"{match[1]}{posixpath.relpath(to, posixpath.dirname(site) or '.')}{mark}{anchor}{match[3]}"

    return CODE_OR_LINK.sub(lambda m: turn(m) if m[2] else m[0].replace("\\|", "|"), line)


class Plan:
    """All pages of the site, before mkdocs knows of any: made once per build."""

    def __init__(self) -> None:
        self.texts = generated() | markdown()
        self.pages = {origin: site for site, (origin, _) in self.texts.items()}
        self.sources: dict[str, str] = {}  # site path -> repository path
        todo = list(self.texts.values())
        while todo:
            for path in targets(*todo.pop()):
                site = site_path(path, self.pages)
                if site and site.startswith("source/") and site not in self.sources:
                    self.sources[site] = path
                    if path.endswith(".md"):
                        todo.append((path, (ROOT / path).read_text()))

    def text(self, site: str) -> str:
        """A page's Markdown, its links turned."""
        if site in self.texts:
            return relink(site, *self.texts[site], self.pages)
        path = self.sources[site]
        text = source_page(path)
        return relink(site, path, text, self.pages) if path.endswith(".md") else text

    def nav(self) -> list:
        """The menu, of the pages that are there."""
        here, used, menu = set(self.texts), set(), []
        for title, entry in NAV:
            if isinstance(entry, str):
                menu += [{title: entry}] if entry in here else []
                used.add(entry)
                continue
            rows = [*entry, *self._rest(title)]
            used |= {page for _, page in rows}
            if rows := [{name: page} for name, page in rows if page in here]:
                menu.append({title: rows})
        more = sorted(here - used)
        return menu + ([{"More": [{Path(p).stem.replace("_", " "): p} for p in more]}] if more else [])

    def _rest(self, title: str) -> list[tuple[str, str]]:
        folder = {"Methods": "methods/", "API": "api/"}.get(title)
        pages = sorted(p for p in self.texts if folder and p.startswith(folder) and p != "api/index.md")
        return [(Path(p).stem, p) for p in pages]


_plan: Plan | None = None


def on_config(config, **kwargs):
    """Set the menu; the plan is made anew for each build."""
    global _plan
    os.environ["COLUMNS"] = "100"  # the width of the verbs' help, whatever the terminal
    _plan = Plan()
    config.nav = _plan.nav()
    return config


def on_files(files, config, **kwargs):
    """Add what does not lie in docs/."""
    from mkdocs.structure.files import File

    assert _plan is not None
    for site in [*_plan.texts, *_plan.sources]:
        if files.get_file_from_path(site) is None:
            file = File.generated(config, site, content=_plan.text(site))
            if site in _plan.sources:
                file.inclusion = file.inclusion.__class__.NOT_IN_NAV
            files.append(file)
    return files


def on_page_markdown(text, page, **kwargs):
    """Turn the links of pages that lie in docs/ (the generated ones have theirs turned)."""
    assert _plan is not None
    site = page.file.src_uri
    return _plan.text(site) if site in _plan.texts and page.file.generated_by is None else text
