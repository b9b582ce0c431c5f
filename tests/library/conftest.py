"""One tiny run on digits that everything here opens."""

import pytest
from tiny_runs import tiny


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """Two steps of the 16-d MAE: 8 x 8 x 1, patch 2, 16 patches of which 10 are hidden."""
    from mae_jax.train.loop import train

    path = tmp_path_factory.mktemp("library") / "runs/digits"
    train(tiny("train.steps=2", "log.tensorboard=False", "log.pictures=1"), path)
    return path


@pytest.fixture(scope="session")
def model(workdir):
    import mae_jax

    return mae_jax.load(workdir)
