import pytest
from digits import pixels

from mae_jax.core.errors import UserError
from mae_jax.eval.probes import Result, Settings, check_protocols, probe
from mae_jax.eval.report import full_json, results_json, table, tables


def test_all_protocols_on_pixels():
    """Issue 2's prototype: 97.1, 96.0, 82.0 on a split of its own; scikit-learn's kNN finds 98 here."""
    found = probe(*pixels())
    assert found["linear"].accuracy == pytest.approx(97.1, abs=1)
    assert found["knn"].accuracy == pytest.approx(97.0, abs=1.5)
    assert found["five_shot"].accuracy == pytest.approx(82.0, abs=1.5)
    assert found["knn"].details["k=10"] == found["knn"].accuracy
    assert set(found["knn"].details) == {"k=1", "k=5", "k=10", "k=20", "k=100"}
    assert found["five_shot"].interval > 0


def some_results():
    return {
        "pretrained": {"linear": Result(96.944), "knn": Result(95.0), "five_shot": Result(89.6, 0.8123)},
        "random": {"linear": Result(89.8), "knn": Result(76.2), "five_shot": Result(56.7, 1.5)},
        "raw": {"linear": Result(97.1), "knn": Result(96.0), "five_shot": Result(82.0, 1.0)},
    }


def test_results_json_is_the_issues_format():
    assert results_json(some_results()) == {
        "linear": {"pretrained": 96.94, "random": 89.8, "raw": 97.1},
        "knn": {"pretrained": 95.0, "random": 76.2, "raw": 96.0},
        "five_shot": {"pretrained": 89.6, "random": 56.7, "raw": 82.0},
    }


def test_table_is_aligned():
    lines = table(some_results()).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["accuracy", "(%)", "pretrained", "random", "raw"]
    assert lines[2].split() == ["linear", "probe", "96.9", "89.8", "97.1"]
    assert lines[4].split() == ["5-shot", "89.6", "(+-0.8)", "56.7", "(+-1.5)", "82.0", "(+-1.0)"]


def test_part_of_the_protocols():
    results = {"a": {"knn": Result(50.0)}, "b": {"knn": Result(60.0), "linear": Result(70.0)}}
    assert results_json(results) == {"linear": {"b": 70.0}, "knn": {"a": 50.0, "b": 60.0}}
    assert "-" in table(results).splitlines()[2].split()


def test_unknown_protocol_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'linear'"):
        probe(*pixels(), ["liner"])


def test_few_shot_has_a_row_per_count_with_the_deviation_of_its_draws():
    """The same draws as five_shot; 1.96 deviations over sqrt(20), by Student 2.09, make the interval."""
    settings = Settings(shots=(2, 5), draws=20)
    found = probe(*pixels(), ["few_shot", "five_shot"], settings)
    assert list(found) == ["few_shot_2", "few_shot_5", "five_shot"]
    assert found["few_shot_5"].accuracy == found["five_shot"].accuracy > found["few_shot_2"].accuracy
    for result in found.values():
        assert result.interval == pytest.approx(2.093 * result.details["deviation"] / 20**0.5, rel=1e-3)
    rows = [line.split()[0] for line in table({"raw": found}, settings).splitlines()[2:]]
    assert rows == ["2-shot", "5-shot", "5-shot"]


def test_the_first_k_is_shown_and_ks_beyond_the_samples_are_left_out():
    train, test = pixels()
    few = type(train)(train.features[:30], train.labels[:30])
    found = probe(few, test, ["knn"], Settings(knn_k=(3, 1, 100)))["knn"]
    assert set(found.details) == {"k=1", "k=3"} and found.accuracy == found.details["k=3"]
    assert table({"a": {"knn": found}}, Settings(knn_k=(3,))).splitlines()[2].startswith("kNN, k = 3 ")


@pytest.mark.parametrize("wrong", [dict(knn_k=()), dict(knn_k=(0,)), dict(shots=()), dict(draws=0)])
def test_settings_that_nothing_can_use(wrong):
    with pytest.raises(UserError, match=f"eval.{next(iter(wrong))}"):
        Settings(**wrong).check()


def test_health_has_a_table_of_its_own_and_heads_stay_in_the_details():
    health = {
        "pretrained": {"rankme": 12.345678, "attention_distance": 3.5, "attention_distance/0": 3.0},
        "raw": {"rankme": 30.0},
    }
    lines = tables({"pretrained": {"knn": Result(50.0)}}, health).splitlines()
    assert lines[4].split() == ["health", "pretrained", "raw"] and lines[7].split() == [
        "attention",
        "distance",
        "3.5",
        "-",
    ]
    assert results_json({}, health) == {
        "rankme": {"pretrained": 12.3457, "raw": 30.0}, "attention_distance": {"pretrained": 3.5}
    }  # fmt: skip
    assert full_json({}, health)["health"]["pretrained"]["attention_distance/0"] == 3.0


def test_what_trains_is_refused_during_pretraining():
    with pytest.raises(UserError, match="mae_jax evaluate"):
        check_protocols(("knn", "health", "finetune"))
