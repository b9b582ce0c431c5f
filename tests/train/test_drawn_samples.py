"""Which samples a run draws: spread over the split, and never one that cannot be read."""

import numpy as np
import pytest

from mae_jax.core.errors import UserError
from mae_jax.data.decode import BadImage
from mae_jax.data.sources import Source
from mae_jax.train.build import Run
from mae_jax.train.pictures import spread


def drawn(bad, count, length=12):
    """The numbers of the records that are drawn of a split, of which those in `bad` cannot be read."""

    class Numbers(Source):
        name, labels = "numbers", np.arange(length)
        __len__ = lambda self: length
        describe = lambda self, index: f"record {index}"

        def __getitem__(self, index):
            if index == 7 and index in bad:
                raise OSError("no such file")
            return {"number": index}

    def read(record, rng):
        if record["number"] in bad:
            raise BadImage("it cannot be decoded")
        return {"image": np.full((2, 2, 1), record["number"], np.uint8)}

    run = object.__new__(Run)  # of which nothing else is asked
    object.__setattr__(run, "views", lambda train: read)
    return spread(run, Numbers(), count)["image"][:, 0, 0, 0].tolist()


def test_the_next_record_takes_the_place_of_one_that_cannot_be_read():
    assert drawn((), 4) == [0, 3, 6, 9]
    assert drawn((3, 6, 7), 4) == [0, 4, 8, 9]
    assert drawn((3, 4, 5), 4) == [0, 6, 9]  # a stretch without any


@pytest.mark.parametrize(("bad", "count", "said"), [(range(12), 4, "record 0: it cannot"), ((), 0, "at least 1")])
def test_nothing_to_draw_is_said(bad, count, said):
    with pytest.raises(UserError, match=said):
        drawn(bad, count)
