"""Pickles of arrays from data sets' authors, read without running what they ask for."""

import pickle
from typing import Any

from mae_jax.core.errors import UserError


class ArrayUnpickler(pickle.Unpickler):
    """Reads arrays, sparse matrices and plain containers, as Python 2 wrote them; anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "csr_matrix" and module.startswith("scipy.sparse"):
            from scipy.sparse import csr_matrix

            return csr_matrix
        numpy_core = module.removeprefix("numpy.").replace("_core", "core") == "core.multiarray"
        if (module, name) in PLAIN or (numpy_core and name in ("_reconstruct", "scalar")):
            return super().find_class(module, name)
        raise UserError(f"A pickle asks for {module}.{name}, which no array needs: the file was not read any further.")


PLAIN = {
    ("numpy", "ndarray"), ("numpy", "dtype"), ("collections", "defaultdict"), ("builtins", "list"),
    ("builtins", "object"), ("__builtin__", "list"), ("__builtin__", "object"), ("_codecs", "encode"),
    ("copy_reg", "_reconstructor"), ("copyreg", "_reconstructor"),
}  # fmt: skip
