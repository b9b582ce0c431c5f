"""Tensor files without torch, against what torch and safetensors write."""

import argparse
import os
import pickle

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.interop.files import _rebuild as rebuild
from mae_jax.interop.files import read_tensors

torch = pytest.importorskip("torch")
STATE = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "b": torch.arange(12.0).reshape(3, 4).t()[1:],  # a view: strides and an offset
    "half": torch.tensor([1.5, -2.0]).half(),
    "brain": torch.tensor([1.5, -2.0]).bfloat16(),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 3),
}


def assert_state(found):
    assert list(found) == list(STATE)
    for name, tensor in STATE.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), tensor.float().numpy())
    assert found["count"].dtype == np.int64 and found["half"].dtype == np.float16


def test_state_dicts(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    assert_state(read_tensors(tmp_path / "a.pth"))
    arguments = argparse.Namespace(lr=1e-3)  # which torch.load(weights_only=True) refuses
    torch.save({"model": STATE, "args": arguments, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "b.pt")
    assert_state(read_tensors(tmp_path / "b.pt"))
    torch.save({"student": {}, "teacher": {f"module.{k}": v for k, v in STATE.items()}}, tmp_path / "c.bin")
    assert_state(read_tensors(tmp_path / "c.bin", part="teacher"))
    with pytest.raises(UserError, match="holds student, teacher"):
        read_tensors(tmp_path / "c.bin")


def test_a_whole_module(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    torch.save(module, tmp_path / "m.pkl")
    found, expected = read_tensors(tmp_path / "m.pkl"), module.state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_safetensors_and_npz(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({k: v.contiguous() for k, v in STATE.items()}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = read_tensors(tmp_path / "a.safetensors")
    assert_state({name: found[name] for name in STATE})
    np.savez(tmp_path / "a.npz", x=np.ones(2))
    assert read_tensors(tmp_path / "a.npz")["x"].tolist() == [1, 1]


class Mischief:
    """Pickles as a call of os.mkdir."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_run(tmp_path):
    torch.save({"model": STATE, "extra": Mischief(tmp_path / "made")}, tmp_path / "a.pth")
    assert_state(read_tensors(tmp_path / "a.pth"))
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "a.pth", weights_only=False)  # the test can fail: a plain unpickler runs it
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "shape, stride, offset",
    [((13,), (1,), 0), ((2,), (1,), 11), ((4, 4), (0, 1), 0), ((2,), (-1,), 3), ((2,), (1, 1), 0)],
)
def test_a_tensor_may_not_leave_its_storage(shape, stride, offset):
    with pytest.raises(ValueError, match="a tensor of shape"):
        rebuild(np.arange(12.0), offset, shape, stride)
    assert rebuild(np.arange(12.0), 1, (2, 3), (4, 1)).tolist() == [[1, 2, 3], [5, 6, 7]]


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read_tensors(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="cut off"):
        read_tensors(tmp_path / "x.pth")
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(UserError, match="header"):
        read_tensors(tmp_path / "x.safetensors")
    torch.save({"epoch": 3}, tmp_path / "y.pth")
    with pytest.raises(UserError, match="none of them is known"):
        read_tensors(tmp_path / "y.pth")
