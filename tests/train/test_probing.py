"""What identifies features that are kept on disk: the method's code is part of it."""

import dataclasses
from pathlib import Path

import mae_jax
from mae_jax import methods
from mae_jax.train.probing import code_digest
from mae_jax.transfer.finetune import FineTune

TEMPLATE = Path(mae_jax.__file__).parent / "template" / "method.py"


def digest(file: Path, text: str, wrapped: bool = False) -> str:
    file.write_text(text)
    method = methods.get(str(file))()
    if wrapped:
        empty = {field.name: None for field in dataclasses.fields(FineTune)}
        outer = object.__new__(FineTune)
        vars(outer).update(empty | {"inner": method})
        method = outer
    return code_digest(method)


def test_another_text_of_a_method_is_another_digest(tmp_path):
    text, file = TEMPLATE.read_text(), tmp_path / "my.py"
    first = digest(file, text)
    assert digest(file, text) == first == digest(tmp_path / "elsewhere.py", text)
    assert digest(file, text + "\nX = 1\n") != first
    assert digest(file, text, wrapped=True) != digest(file, text + "\nX = 1\n", wrapped=True)
    assert first != code_digest(methods.get("mae")())
