"""Which steps are bad, when a run goes back, to what order of data; and that this survives a checkpoint."""

import json
import statistics

import numpy as np
import pytest

from mae_jax.schema import Guard
from mae_jax.train import rollback
from mae_jax.train.numbers import Numbers, Record, data_seed, order_at


def run(numbers, losses, start=0, skipped=0):
    """Feed losses as a run would (NaN and what is above the limit are skipped) -> (the limits, updates skipped)."""
    limits = []
    for step, loss in enumerate(losses, start + 1):
        limits.append(numbers.limit)
        skipped += not (np.isfinite(loss) and (limits[-1] is None or loss <= limits[-1]))
        if numbers.took(step, {"loss": loss, "skipped": skipped, "grad_norm": 1.0}):
            return limits, skipped
    return limits, skipped


def test_order_0_is_the_seed_and_others_differ():
    assert data_seed(7, 0) == 7
    seeds = {data_seed(seed, order) for seed in (0, 7) for order in range(1, 50)}
    assert len(seeds) == 98 and all(0 <= seed < 2**63 for seed in seeds)
    assert data_seed(0, 1) == data_seed(0, 1)


def test_only_a_streak_of_the_asked_length_goes_back():
    numbers = Numbers(Guard(skips=3), Record(), 0)
    run(numbers, [1, np.nan, np.nan, 1, 1, np.nan, np.nan, np.nan, 1])
    assert numbers.record.streak == 3 and numbers.first_bad[0] == 6  # steps 6 to 8, read while 9 is under way


def test_a_limit_is_a_multiple_of_the_running_median_of_good_losses():
    numbers = Numbers(Guard(spike=3.0, spike_window=8), Record(), 0)
    losses = [*np.linspace(2, 1, 20), 50.0, 1.0, 1.0]
    limits, skipped = run(numbers, losses)
    assert skipped == 1 and all(np.isinf(x) for x in limits[:9])  # 8 losses, and one that is still unread
    good = losses[:20]
    for k in range(9, 20):  # the limit of the k-th batch knows the losses up to the one before the last
        assert limits[k] == np.float32(3 * statistics.median(good[max(0, k - 1 - 8) : k - 1]))
    assert limits[22] == np.float32(3 * statistics.median(good[-8:]))  # the spike has not moved it
    assert Numbers(Guard(), Record(), 0).limit is None


def test_a_negative_loss_has_its_limit_above_the_median():
    numbers = Numbers(Guard(spike=1.5), Record(losses=[-0.8] * 16), 0)
    assert numbers.limit == np.float32(-0.4)


@pytest.mark.parametrize("stop", [5, 11, 12, 13, 20])
def test_a_resumed_run_has_the_same_limits_and_streaks(stop):
    """Saved after any step, also in the middle of a streak, through JSON."""
    settings = Guard(spike=2.0, spike_window=8, skips=4)
    losses = [*np.linspace(3, 2, 10), np.nan, 9.0, np.nan, 2.0, 2.1, 1.9, 2.0, 9.0, np.nan, np.nan, 9.0, 1.0]
    whole = Numbers(settings, Record(), 0)
    expected, total = run(whole, losses)
    first = Numbers(settings, Record(), 0)
    head, skipped = run(first, losses[:stop])
    saved = json.loads(json.dumps(first.to_save()))
    second = Numbers(settings, Record.of(saved), skipped)
    tail, again = run(second, losses[stop:], stop, skipped)
    assert head + tail == expected and again == total
    assert second.record.streak == whole.record.streak == 4 and second.first_bad[0] == whole.first_bad[0] == 18


def test_the_history_says_which_order_holds_for_a_batch():
    record = Record()
    record.rolled_back(100, trouble=130)
    record.rolled_back(50, trouble=120)  # undoes the first
    record.rolled_back(80, trouble=140)
    assert record.history == [[0, 0], [50, 2], [80, 3]] and record.number == 3 and record.trouble == 140
    assert [order_at(record.history, k) for k in (0, 49, 50, 79, 80, 10**6)] == [0, 0, 2, 2, 3, 3]


def test_tries_begin_anew_past_the_place():
    record = Record(tries=2, trouble=10)
    numbers = Numbers(Guard(), record, 0)
    run(numbers, [1.0] * 10)
    assert numbers.to_save()["tries"] == 2
    run(numbers, [1.0], 10)
    assert numbers.to_save()["tries"] == 0


def test_where_to_go_back_to():
    assert rollback.target([10, 20, 30], 25, 0) == 20  # 30 was saved within the streak
    assert rollback.target([10, 20, 30], 25, 1) == 10 and rollback.target([10, 20], 25, 5) == 10
    assert rollback.target([30], 30, 0) == 0 and rollback.target([], 5, 1) == 0


def test_a_run_killed_after_a_rollback_goes_on_with_it(tmp_path):
    (tmp_path / rollback.FOLDER).mkdir()
    record = Record()
    record.rolled_back(40, trouble=55)
    rollback.write(tmp_path / rollback.FOLDER / "rollback.json", record.to_json())
    assert rollback.record_of(tmp_path, 40, Record().to_json()) == record
    other = rollback.record_of(tmp_path, 20, Record().to_json())  # the checkpoint of 40 has been lost since
    assert other.number == 1 and other.history == [[0, 0]]
    newer = Record(number=1, history=[[0, 0], [40, 1]], tries=0)
    assert rollback.record_of(tmp_path, 60, newer.to_json()) == newer
    (tmp_path / rollback.FOLDER / "rollback.json").write_text("{")
    assert rollback.record_of(tmp_path, 40, None) == Record()
