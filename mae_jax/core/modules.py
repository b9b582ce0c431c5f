"""Python files of a user's own, run as modules: config files, and methods that lie outside the package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mae_jax.core.errors import UserError

_NEIGHBOURS: dict[str, str] = {}  # module that a file imported from beside it -> that folder


def run_file(path: str | Path, name: str, *, keep: bool = False) -> ModuleType:
    """Run the Python file at `path` as a module called `name`. It may import what lies beside it.

    Args:
      keep: the module and its neighbours stay in sys.modules (a dataclass needs its module); those of another folder
        give way, since two folders may each have a "utils". Otherwise nothing stays.

    Raises:
      UserError: no Python file, or no valid Python. What the file itself raises is its author's to see.
    """
    path = Path(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"'{path}' is not a Python file (its name must end in .py).")
    folder = str(path.resolve().parent)
    for other in [n for n, where in _NEIGHBOURS.items() if where != folder]:
        sys.modules.pop(other, None)
        del _NEIGHBOURS[other]
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.path.insert(0, folder)
    if keep:
        sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        if keep:
            del sys.modules[name]
        if isinstance(error, SyntaxError):
            raise UserError(f"'{path}' is no valid Python: {error.msg} (line {error.lineno}).") from None
        raise
    finally:
        sys.path.remove(folder)
        for other in set(sys.modules) - before - {name}:
            if Path(getattr(sys.modules[other], "__file__", None) or "").resolve().parent == Path(folder):
                if keep:
                    _NEIGHBOURS[other] = folder
                else:
                    del sys.modules[other]
    return module
