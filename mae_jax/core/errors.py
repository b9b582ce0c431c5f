"""The one exception that a user can cause: a paragraph that says what is wrong and how to mend it."""

import difflib
from collections.abc import Iterable

MANY = 40  # names that a message lists


class UserError(Exception):
    """Bad input. The command line prints the message alone, without a stack trace, and exits with 2."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Say which of `names` lies nearest to `name`, as a sentence to append to an error (empty if none is known)."""
    names = sorted(names)
    if not names:
        return ""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:  # a key given without its section: compare the last parts
        last = {n.rsplit(".", 1)[-1]: n for n in names}
        close = [last[n] for n in difflib.get_close_matches(name.rsplit(".", 1)[-1], last, n=1, cutoff=0.6)]
    if close:
        return f"Did you mean '{close[0]}'?"
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return "Known: " + ", ".join(names[:MANY]) + more + "."
