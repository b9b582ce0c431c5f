"""The documentation: every key, verb and page is in it, links resolve, and the site builds without a warning."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mae_jax import modalities
from mae_jax.schema import SECTIONS

ROOT = Path(__file__).parent.parent
WRITTEN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])


@pytest.fixture(scope="module")
def hooks():
    """The modules of docs/hooks; they need nothing but Python."""
    sys.path.insert(0, str(ROOT / "docs/hooks"))
    try:
        import pages
        import reference

        yield pages, reference
    finally:
        sys.path.remove(str(ROOT / "docs/hooks"))
        for name in ("pages", "reference"):
            sys.modules.pop(name, None)


def plain(text: str) -> str:
    """Markdown without escapes."""
    return re.sub(r"\\([|*_<\[\]\\])", r"\1", text)


def test_every_key_is_on_the_page_with_its_default_and_comment(hooks):
    _, reference = hooks
    page = plain(reference.configs_page())
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    source = (ROOT / "mae_jax/schema.py").read_text().splitlines()
    for section, cls in SECTIONS.items():
        assert f"\n## {section}\n" in page
        begin = source.index(f"class {cls.__name__}:")
        for field in dataclasses.fields(cls):
            if field.name == "options":  # never given by a user
                continue
            row = rows[f"{section}.{field.name}"]
            line = next(text for text in source[begin:] if re.match(rf"    {field.name}: ", text))
            if "  # " in line:
                assert line.split("  # ")[1] in row, f"{section}.{field.name}: {row}"
            if isinstance(field.default, int | str | bool | None):
                assert f"`{field.default!r}`" in row
    assert {key for key in rows if key.startswith("augment.")} >= {f"augment.{key}" for key in modalities.types()}
    rules = rows["optim.decay_rules"]  # whose comment stands behind the last of its lines
    assert "first match wins, all must match" in rules


def test_methods_and_sources_have_their_keys(hooks):
    from mae_jax import methods
    from mae_jax.data.sources import SOURCES
    from mae_jax.methods.base import config_fields

    page = hooks[1].configs_page()
    known = [(f"method.name={n}", "method", methods.get(n)) for n in methods.names()]
    known += [(f"data.source={n}", "data", cls) for n, cls in SOURCES.items()]
    for title, section, cls in known:
        part = page.split(f"\n### {title}\n")[1].split("\n### ")[0]
        for name in config_fields(cls):
            if name != "compute":
                assert f"| `{section}.{name}` |" in part, f"{title}: {name}"


def test_every_verb_is_on_its_page_and_in_the_readme(hooks):
    from mae_jax.commands.main import VERBS

    page, readme = hooks[1].verbs_page(), (ROOT / "README.md").read_text()
    for verb in VERBS:
        assert f"## {verb}\n\n```text\nusage: " in page
        assert f"| `mae_jax {verb}" in readme, f"README's table of verbs lacks {verb}"


def test_every_page_is_in_the_menu_once(hooks):
    pages, _ = hooks
    plan = pages.Plan()
    found = re.findall(r"[\w./-]+\.md", json.dumps(plan.nav()))
    assert sorted(found) == sorted(plan.texts)
    written = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert written <= set(found) and "index.md" in found


def anchors(text: str) -> set[str]:
    """The anchors of a file's headings, as GitHub makes them."""
    text = re.sub(r"^(```+).*?^\1\s*$", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(path):
    text = re.sub(r"^(```+).*?^\1\s*$", "", path.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.relative_to(ROOT)} links to {link}"
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text()), f"{path.relative_to(ROOT)}: no heading for {link}"


def test_links_are_turned(hooks):
    """To pages of the site: from docs/, from the root, with an anchor; code is left alone."""
    pages, _ = hooks
    known = {"docs/data.md": "data.md", "README.md": "quickstart.md", "docs/methods/mae.md": "methods/mae.md"}
    text = (
        "[a](../data.md#sources) [`b`](../../README.md) `[c](../data.md)`\n```\n[d](../data.md)\n```\n[e](https://x.y/)"
    )
    turned = pages.relink("methods/mae.md", "docs/methods/mae.md", text, known)
    assert turned == text.replace("../../README.md", "../quickstart.md") and turned != text
    assert pages.relink("quickstart.md", "README.md", "[m](docs/data.md) ![i](docs/images/photos.png)", known) == (
        "[m](data.md) ![i](images/photos.png)"
    )
    code = pages.relink("data.md", "docs/data.md", "[c](../mae_jax/schema.py)", known)
    assert code == "[c](source/mae_jax/schema.py.md)"


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs mae_jax[docs]")
def test_the_site_builds_without_a_warning(tmp_path):
    """And fetches nothing: no page names another host for anything but links that one clicks."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    html = [p.read_text() for p in (tmp_path / "site").rglob("*.html") if "source" not in p.parts]
    assert len(html) > 30
    for text in html:
        assert not re.search(r'<(script|img|link)[^>]+(src|href)="(https?:)?//', text)
