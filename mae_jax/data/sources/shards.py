"""Which files a directory, a file or a pattern names, and which split each belongs to."""

import glob
import os
import re
from pathlib import Path

from mae_jax.core.errors import UserError, nearest

TEST_WORDS = ("val", "test", "validation")  # the first that occurs
_WORD = re.compile(r"(?<![a-z])(train|val|validation|test)(?![a-z])")


def find_shards(path: str, endings: tuple[str, ...]) -> tuple[Path, list[Path]]:
    """(root, files) of a directory (searched below), a file, or a pattern with {000..146}, {a,b}, *, ? and [].

    Files are sorted; hidden ones are left out. Names are taken relative to the root.

    Raises: UserError when nothing is found, or a file that braces name is missing.
    """
    full = Path(path).expanduser().absolute()
    if full.is_dir():
        found = sorted(p for p in full.rglob("*") if p.name.endswith(endings) and _shown(p, full) and p.is_file())
        if not found:
            there = sorted(p.name for p in full.iterdir())[:8]
            raise UserError(f"There is no file ending in {' or '.join(endings)} below {full}; it holds "
                            f"{', '.join(there) or 'nothing'}.")  # fmt: skip
        return full, found
    if full.is_file():
        return full.parent, [full]
    wanted = expand_braces(str(full))
    files: list[Path] = []
    for pattern in wanted:
        hits = [Path(p) for p in glob.glob(pattern)]
        if not hits:
            beside = [p.name for p in Path(pattern).parent.iterdir()] if Path(pattern).parent.is_dir() else []
            raise UserError(f"data.path={path}: there is no file {pattern}. {nearest(Path(pattern).name, beside)}")
        files += hits
    files = sorted(set(files))
    return Path(os.path.commonpath([f.parent for f in files])), files


def split_shards(root: Path, files: list[Path]) -> tuple[list[Path], list[Path] | None]:
    """(files to train on, files to test on), by the words train, val, validation and test in their relative paths.

    A word counts where no letter touches it (train-000.tar, val/0.tar, but not training.tar). Where there are not
    both, all files belong to one set, (files, None): the test split is held out from it.

    Raises: UserError when there are both and a file is of neither.
    """
    words = [next(iter(_WORD.findall(str(f.relative_to(root)).lower())), None) for f in files]
    test = next((w for w in TEST_WORDS if w in words), None)
    if "train" not in words or test is None:
        return files, None
    if None in words:
        raise UserError(f"{files[words.index(None)]} has none of the words train, val, validation and test in its "
                        "name, and other files have. Give data.path a pattern without it.")  # fmt: skip
    of = dict(zip(files, words, strict=True))
    return [f for f in files if of[f] == "train"], [f for f in files if of[f] == test]


def expand_braces(pattern: str) -> list[str]:
    """The patterns that {000..146} (padded with zeros as written) and {a,b} stand for."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if span:
        first, last = int(span[1]), int(span[2])
        if last < first:
            raise UserError(f"data.path: {match[0]} counts down; the smaller number goes first.")
        items = [str(i).zfill(len(span[1])) for i in range(first, last + 1)]
    else:
        items = match[1].split(",")
    return [p for item in items for p in expand_braces(pattern[: match.start()] + item + pattern[match.end() :])]


def _shown(path: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(root).parts)
