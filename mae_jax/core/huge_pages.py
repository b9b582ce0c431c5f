"""The C library's large blocks in pages of 2 MB in the place of 4 kB: on a CPU a step spends less time in the kernel.

XLA's CPU backend takes a step's temporaries from malloc and gives them back after it. The kernel hands them out again
page by page, zeroed: 850 000 page faults per step of ViT-B at batch 16 (docs/speed.md holds what they cost).
"""

import os
import re
import sys
from pathlib import Path

from mae_jax.core import drivers

VARIABLE, VALUE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"  # 1: madvise(MADV_HUGEPAGE)
MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SINCE = (2, 35)  # glibc


def start_again() -> None:
    """Replace this process by itself with VALUE in its environment: glibc reads it before a process's first line.

    Returns, and changes nothing, where that is of no use (`wanted`) or cannot be done.
    """
    if wanted():
        try:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {VARIABLE: VALUE})
        except OSError:
            return


def wanted() -> bool:
    """Whether the run will be on a CPU, glibc and the kernel can do it, and the user has not set VARIABLE."""
    if VARIABLE in os.environ or not sys.platform.startswith("linux") or not sys.executable:
        return False
    if sys.gettrace() is not None or "pydevd" in sys.modules:  # a debugger would lose us
        return False
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or not drivers.present()
    return on_cpu and glibc() >= SINCE and on_request()


def glibc() -> tuple[int, ...]:
    """The version of the C library; () where it is another."""
    try:
        found = re.fullmatch(r"glibc (\d+)\.(\d+)", os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError):
        return ()
    return tuple(map(int, found.groups())) if found else ()


def on_request() -> bool:
    """Whether the kernel gives huge pages to who asks (and not to all, or to none)."""
    try:
        return "[madvise]" in MODE.read_text()
    except OSError:
        return False
