"""One line of the report, and how a check that breaks becomes one."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from mae_jax.core.errors import UserError

State = Literal["ok", "warn", "bad"]


@dataclasses.dataclass(frozen=True)
class Line:
    """What was looked at, what was found, and what to do about it.

    Attributes:
      state: "ok"; "warn" where a run would go, but worse or perhaps not to its end; "bad" where it would not.
      what: a word or two. said: what was found. mend: what to do; "" with "ok", and where `said` says it.
    """

    state: State
    what: str
    said: str
    mend: str = ""

    def text(self, host: str = "") -> str:
        """One line, and the mend below it."""
        first = f"{self.state:<5}{self.what:<15}{f'[{host}] ' if host else ''}{self.said}"
        return first if not self.mend else f"{first}\n{'':20}-> {self.mend}"


def gathered(what: str, check: Callable[[], list[Line]]) -> list[Line]:
    """The lines of a check. What it raises is a bad line: the others are made all the same."""
    try:
        return check()
    except UserError as error:
        return [Line("bad", what, str(error))]  # which says the mend itself
    except Exception as error:  # a check that cannot be made has found something
        said = " ".join(str(error).split())[:300]
        return [
            Line("bad", what, f"{type(error).__name__}: {said}", "see the message; `mae_jax train --debug` says more")
        ]


def size(count: float) -> str:
    """A number of bytes, to be read."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"
