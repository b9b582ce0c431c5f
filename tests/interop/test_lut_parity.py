"""LUT's parity with the authors' code, and with plain torch at options that no stored file has."""

import sys
from pathlib import Path

import numpy as np
import pytest
from golden_files import GOLDEN, write

from mae_jax.core.errors import UserError
from mae_jax.interop import parity
from mae_jax.interop.golden import read, rule_weight
from mae_jax.interop.lut import prepare_pretraining, pretraining_method, pretraining_rules
from mae_jax.interop.names import export_weights, import_weights

FILES = sorted((GOLDEN / "lut").glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_file(path):
    golden = read(path)
    lines = parity.compare(golden, str(path))
    assert {line.output for line in lines} == set(golden.outputs) and len(FILES) == 2
    for line in lines:
        assert line.ok and line.max_rel < 5e-6, line


def test_export_is_the_inverse_of_import():
    golden = read(FILES[0])
    prepared = prepare_pretraining(golden)
    tree, report = import_weights(prepared.rules, golden.weights, prepared.template)
    back = export_weights(prepared.rules, tree, constants=True)
    assert set(golden.weights) - set(back) == {"head.1.num_batches_tracked", "predictor.1.num_batches_tracked"}
    assert "pos_embed" in report.unused
    for name, tensor in back.items():
        np.testing.assert_allclose(tensor, golden.weights[name], atol=1e-6, err_msg=name)


BASE = {
    "img_size": 16, "patch_size": 4, "in_chans": 3, "embed_dim": 24, "depth": 1, "num_heads": 3, "mlp_ratio": 2.0,
    "norm_eps": 1e-5, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2, "mask_ratio": 0.6,
    "norm_pix_loss": False, "head_mlp_dim": 20,
}  # fmt: skip


def mlp(nn, depth, dim, hidden, norm, activation):
    """The authors' projector and predictor."""
    layers = []
    for i in range(depth):
        layers += [nn.Linear(dim if i == 0 else hidden, dim if i == depth - 1 else hidden, bias=False)]
        if i < depth - 1:
            layers += {"LN": [nn.LayerNorm(hidden, eps=1e-6)], "BN": [nn.BatchNorm1d(hidden)], None: []}[norm]
            layers += [nn.ReLU() if activation == "ReLU" else nn.GELU()]
    return nn.Sequential(*layers)


def record(path, config, mode):
    """What plain torch computes of a student under seed 7 and a teacher under seed 8, as a golden file."""
    torch = pytest.importorskip("torch")
    sys.path.insert(0, str(Path(__file__).parent.parent / "reference"))
    import mae_torch

    def build(seed):
        model = mae_torch.MAE(config)
        shape = config["embed_dim"], config["head_mlp_dim"], config["head_norm_layer"], config["head_act_layer"]
        model.head = mlp(torch.nn, config["depth_head"], *shape)
        model.predictor = mlp(torch.nn, config["depth_pred"], *shape)
        weights = {name: rule_weight(name, w.shape, seed) for name, w in model.state_dict().items()}
        model.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
        return model

    student, teacher = build(7).train(mode == "train"), build(8).eval()
    rng = np.random.default_rng(0)
    views = torch.from_numpy(rng.standard_normal((2, 3, 3, 16, 16)).astype(np.float32))
    noise = torch.from_numpy(rng.random((3, 16), dtype=np.float32))
    order = torch.argsort(noise, dim=1)
    second = torch.argsort(torch.roll(order, -student.keep, dims=1), dim=1).float()  # the next ones come first
    mae_loss, seen = student(views[0], noise)
    latents = seen["latent"], student(views[1], second)[1]["latent"]
    q = [student.predictor(student.head(latent[:, 1:].mean(1))) for latent in latents]
    teacher.keep = 16
    z = [teacher.head(teacher(view, noise)[1]["latent"][:, 1:].mean(1)).detach() for view in views]
    d = lambda a, b: (2 - 2 * torch.nn.functional.cosine_similarity(a, b)).mean()
    bc_loss = (d(q[1], z[0]) + d(q[0], z[1])) / 2
    loss = mae_loss + config["w_bc"] * bc_loss
    loss.backward()
    outputs = {
        "latent1": latents[0], "latent2": latents[1], "student_q1": q[0], "student_q2": q[1], "teacher_q1": z[0],
        "teacher_q2": z[1], "mae_loss": mae_loss, "bc_loss": bc_loss, "loss": loss,
    }  # fmt: skip
    outputs |= {f"grad_norm/{name}": p.grad.norm() for name, p in student.named_parameters()}
    meta = {
        "system": "lut", "class": "MaskedAutoencoderViT_LUT", "config": config, "seed": 7, "teacher_seed": 8,
        "student_mode": mode, "weights": {name: w.shape for name, w in student.state_dict().items()},
    }  # fmt: skip
    arrays = {"in/imgs1": views[0], "in/imgs2": views[1], "in/noise": noise}
    arrays |= {f"out/{name}": x.detach() for name, x in outputs.items()}
    return write(path, meta, {name: x.numpy() for name, x in arrays.items()})


@pytest.mark.parametrize(
    "norm, activation, depth_head, depth_pred, mode",
    [
        ("LN", "GELU", 3, 1, "eval"),
        (None, "GELU", 2, 3, "eval"),
        ("BN", "ReLU", 3, 2, "train"),
        ("LN", "ReLU", 0, 2, "train"),
    ],
)
def test_other_heads(tmp_path, norm, activation, depth_head, depth_pred, mode):
    config = BASE | {
        "head_norm_layer": norm, "head_act_layer": activation, "depth_head": depth_head, "depth_pred": depth_pred,
        "w_bc": 0.7,
    }  # fmt: skip
    for line in parity.compare(read(record(tmp_path / "x.npz", config, mode))):
        assert line.ok and (line.max_rel < 1e-5 or line.max_abs < 1e-7), line


def test_arguments_are_read_strictly():
    method = pretraining_method({"head_norm_layer": None, "w_bc": 0.1, "img_size": 32, "w_mae": 1.0})
    assert method.head_norm == "none" and method.bc_weight == 0.1 and pretraining_rules(method)
    for config, message in (
        ({"head_norm_layer": "GN"}, "head_norm_layer='GN'"),
        ({"w_mae": 0.5}, "w_mae=0.5"),
        ({"head_mlp_dims": 8}, "head_mlp_dims"),
        ({"mask_ratio": 0.3}, "disjoint"),
    ):
        with pytest.raises(UserError, match=message):
            pretraining_method(config)
