"""Parity with the authors' code on every golden file of MAE, and that it fails where it must."""

import argparse
import json

import numpy as np
import pytest
from golden_files import GOLDEN, MAE, raw, write

from mae_jax.commands import parity as command
from mae_jax.core.errors import UserError
from mae_jax.interop import parity
from mae_jax.interop.golden import read


@pytest.mark.parametrize("path", MAE, ids=lambda path: path.stem)
def test_golden_file(path):
    golden = read(path)
    lines = parity.compare(golden, str(path))
    assert {line.output for line in lines} >= set(golden.outputs)
    for line in lines:  # far inside the public tolerance, and without its absolute half
        assert line.ok and line.max_rel < 2e-6, line


def test_all_files_are_here():
    assert {path.stem for path in MAE} == {
        "pretrain", "pretrain_normpix", "classifier_gap", "classifier_cls", "pos_embed", "optim", "mixup"
    }  # fmt: skip


def test_layer_decay_groups_are_compared(tmp_path):
    meta, arrays = raw("classifier_gap")
    meta["lr_scale"]["blocks.1.norm1.bias"] *= 1.01
    meta["weight_decay"]["no.such.name"] = 0.0
    lines = {line.output: line for line in parity.compare(read(write(tmp_path / "x.npz", meta, arrays)))}
    assert not lines["meta/lr_scale"].ok and not lines["meta/weight_decay"].ok and lines["logits"].ok


def failed(tmp_path, name, change):
    """Outputs that fail after `change(meta, arrays)`."""
    meta, arrays = raw(name)
    change(meta, arrays)
    return {line.output for line in parity.compare(read(write(tmp_path / "x.npz", meta, arrays))) if not line.ok}


def break_weight(meta, arrays):
    table = read(GOLDEN / "mae" / "pretrain.npz").weights["decoder_blocks.1.attn.proj.weight"].copy()
    table[3, 4] += 0.05
    arrays["w/decoder_blocks.1.attn.proj.weight"] = table


def test_one_broken_weight_is_seen_after_it_only(tmp_path):
    outputs = failed(tmp_path, "pretrain", break_weight)
    assert "pred" in outputs and not outputs & {"latent", "mask", "ids_restore", "target_patches"}


def test_other_noise_is_another_mask(tmp_path):
    outputs = failed(tmp_path, "pretrain", lambda meta, arrays: arrays["in/noise"].sort(axis=1))
    assert {"mask", "ids_restore", "latent", "pred", "loss"} <= outputs


def test_what_is_not_compared_fails(tmp_path):
    def change(meta, arrays):
        arrays["out/other"] = np.zeros(3, np.float32)
        arrays["out/sincos"] = arrays["out/sincos"][1:]
        arrays["out/interp_up"] = arrays["out/interp_up"] * np.nan

    assert failed(tmp_path, "pos_embed", change) == {"other", "sincos", "interp_up"}


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda meta: meta["weights"].pop("blocks.1.norm2.bias"), "encoder/blocks/1/norm2/bias"),
        (lambda meta: meta["weights"].update(extra=[2, 3]), r"extra \(2x3\) is known to no rule"),
        (lambda meta: meta["weights"].update({"norm.bias": [16]}), r"norm\.bias \(16\) does not fit"),
        (
            lambda meta: meta["config"].update(depth=3),
            "encoder/blocks/2/attn/qkv/kernel .* filled by no tensor",
        ),
        (lambda meta: meta["config"].update(num_registers=4), "'num_registers'"),
        (lambda meta: meta["config"].update(qk_scale=0.3), "qk_scale=0.3"),
        (lambda meta: meta["config"].update(img_size=64), "img_size"),
        (lambda meta: meta.update({"class": "MaskedAutoencoder"}), "MaskedAutoencoderViT"),
        (lambda meta: meta.update(system="moe"), "known are: .*mae"),
        (lambda meta: meta.update(system="../names"), "no counterpart"),
        (lambda meta: meta.update(system="parity"), "no counterpart"),
    ],
)
def test_a_file_that_ours_does_not_fit(tmp_path, change, message):
    meta, arrays = raw("pretrain")
    change(meta)
    with pytest.raises(UserError, match=message):
        parity.compare(read(write(tmp_path / "x.npz", meta, arrays)))


def run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(a) for a in arguments]))


def test_command(capsys, tmp_path):
    good, other = GOLDEN / "mae" / "optim.npz", GOLDEN / "mae" / "mixup.npz"
    assert run(good, other) == 0
    text = capsys.readouterr().out
    assert "p0_step3" in text and "cutmix_lam" in text and "14 of 14" in text
    assert run("--json", good) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 7
    assert all(
        set(line) == {"file", "output", "max_abs", "max_rel", "ok"} and line["file"] == str(good) for line in lines
    )
    assert {line["output"] for line in lines} == set(read(good).outputs)
    assert run("--tolerance", "1e-12", good) == 1
    assert "FAIL" in capsys.readouterr().out


def test_command_goes_on_after_a_bad_file(capsys, tmp_path):
    good = GOLDEN / "mae" / "optim.npz"
    assert run("--json", tmp_path / "absent.npz", good) == 1
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert [line["ok"] for line in lines] == [False] + [True] * 7 and lines[0]["max_abs"] is None
    assert "There is no file" in captured.err
    meta, arrays = raw("optim")
    del arrays["in/p1"]
    assert run(good, write(tmp_path / "x.npz", meta, arrays)) == 1
    captured = capsys.readouterr()
    assert "in/p1" in captured.err and "1 FAILED" in captured.out


def test_usage_errors(capsys):
    for arguments in ([], ["--tolerance", "-1", "x"], ["--tolerance", "x", "x"], ["--what", "x"]):
        with pytest.raises(SystemExit) as error:
            run(*arguments)
        assert error.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize(
    "ours,reference,max_abs,max_rel,ok",
    [
        ([1.0, 2.0], [1.0, 2.0], 0, 0, True),
        ([1.0, 2.00019], [1.0, 2.0], 1.9e-4, 9.5e-5, True),  # within relative, beyond absolute
        ([5.1e-5], [1e-5], 4.1e-5, 4.1, True),  # within absolute, beyond relative
        ([5e-9], [0.0], 5e-9, 5e-3, True),  # the floor
        ([1.0, 2.1], [1.0, 2.0], 0.1, 0.05, False),
        ([np.inf, 1.0], [np.inf, 1.0], 0, 0, True),
        ([np.nan], [np.nan], np.nan, np.nan, False),
    ],
)
def test_measure_of_error(ours, reference, max_abs, max_rel, ok):
    line = parity._line("f", "x", np.array(reference), np.array(ours), 1e-4)
    np.testing.assert_allclose(line.max_abs, max_abs, rtol=1e-6, atol=1e-12)
    if np.isfinite(reference).all():
        np.testing.assert_allclose(line.max_rel, max_rel, rtol=1e-6, atol=1e-12)
    assert line.ok is ok
    json.loads(line.as_json())
