import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.optimize import minimize_scalar

from rv_eval.results.comparison import compare, mcnemar_exact, tango_interval, verdict
from rv_eval.results.summary import gather
from rv_eval.results.summary_text import comparison_text
from tests.rv_eval.records import record, write, write_quickly


@pytest.mark.parametrize("only_a, only_b", [(0, 0), (0, 1), (1, 7), (25, 41), (30, 30), (400, 300), (0, 2000)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    throws = only_a + only_b
    expected = scipy_stats.binomtest(only_a, throws, 0.5).pvalue if throws else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(only_b, only_a) == mcnemar_exact(only_a, only_b)


def test_tango_interval_of_a_published_example():
    # Airway hyper-responsiveness before and after (Bentur et al. 2009) in Fagerland, Lydersen, Laake,
    # Statistics in Medicine 33:2850 (2014): 1 and 7 discordant pairs of 21.
    assert tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize("gained, lost, pairs", [(3, 9, 50), (0, 4, 30), (5, 0, 30), (41, 25, 500), (2, 2, 9)])
def test_tango_limits_are_where_the_score_test_rejects(gained, lost, pairs):
    """The limits solve the definition, with the likelihood maximised by a general optimiser."""
    for d in tango_interval(gained, lost, pairs):

        def minus_log_likelihood(q, d=d):
            with np.errstate(divide="ignore", invalid="ignore"):
                counts = np.array([gained, lost, pairs - gained - lost])
                cells = np.array([q + d, q, 1 - 2 * q - d])
                return -np.sum(np.where(counts > 0, counts * np.log(cells), 0.0))

        bounds = (max(0.0, -d), (1 - d) / 2)
        q = minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        score = (gained - lost - pairs * d) / np.sqrt(pairs * (2 * q + d - d * d))
        assert abs(score) == pytest.approx(1.959964, abs=1e-3)


def test_tango_interval_at_the_edges():
    low, high = tango_interval(0, 0, 50)
    assert low == -high and high == pytest.approx(1.959964**2 / (50 + 1.959964**2))
    assert tango_interval(50, 0, 50)[1] == pytest.approx(1.0) and tango_interval(0, 50, 50)[0] == pytest.approx(-1.0)


def make_runs(tmp_path, both, only_a, only_b, neither, **changes):
    pattern = [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b + [(False, False)] * neither
    a = [record(0, init, success=pair[0]) for init, pair in enumerate(pattern)]
    b = [record(0, init, success=pair[1], **changes) for init, pair in enumerate(pattern)]
    return (
        gather([write_quickly(tmp_path / "a" / "results.jsonl", a)]),
        gather([write_quickly(tmp_path / "b" / "results.jsonl", b)]),
    )


@pytest.mark.parametrize(
    "counts, says",
    [
        (
            (400, 25, 41, 34),
            ["B is 3.2 points better", "41 episodes only B", "25 only A", "6.4 % of cases: not"],
        ),
        ((400, 41, 25, 34), ["B is 3.2 points worse", "B - A: 95 % -6.5 to -0.0", "not larger than chance"]),
        ((30, 0, 11, 9), ["22.0 points better", "fewer than 1 in 1,000 cases: larger than chance"]),
        ((30, 5, 5, 10), ["equally many", "5 episodes only B solved, 5 only A"]),
        ((30, 0, 0, 20), ["same outcome in all 50 episodes", "-7.1 to +7.1"]),
    ],
)
def test_verdict(tmp_path, counts, says):
    comparison = compare(*make_runs(tmp_path, *counts))
    assert (comparison.both, comparison.only_a, comparison.only_b) == counts[:3]
    assert all(text in verdict(comparison) for text in says), verdict(comparison)


def test_a_close_call_is_called_one(tmp_path):
    """The approximate interval leaves out zero, the exact test does not reject: both are said."""
    comparison = compare(*make_runs(tmp_path, 400, 25, 41, 34))
    assert comparison.interval[0] > 0 and "A close call" in verdict(comparison)
    assert "A close call" not in verdict(compare(*make_runs(tmp_path, 40, 2, 4, 4)))


def test_what_is_not_paired_and_what_differs_is_listed(tmp_path):
    first = write(tmp_path / "a" / "results.jsonl", [record(0, init) for init in range(6)])
    second = [record(0, init, n_action_steps=4, model_path="other") for init in range(2, 9)] + [
        record(suite="libero_10")
    ]
    second[-1]["n_action_steps"], second[-1]["model_path"] = 4, "other"
    runs = gather([first]), gather([write(tmp_path / "b" / "results.jsonl", second)])
    comparison = compare(*runs)
    assert len(comparison.pairs) == 4
    text = comparison_text(*runs, comparison)
    assert "2 episodes only in A" in text and "4 episodes only in B" in text
    assert "libero_goal 0: init 0-1" in text and "libero_goal 0: init 6-8" in text and "libero_10 0: init 0" in text
    assert "  n_action_steps: 8 | 4" in text and "  model_path: checkpoints/run | other" in text
    assert "resolution" not in text


def test_runs_without_a_common_episode_are_refused(tmp_path):
    runs = [
        gather([write(tmp_path / name / "results.jsonl", [record(seed=seed)])]) for name, seed in (("a", 7), ("b", 8))
    ]
    with pytest.raises(ValueError, match="no episode in common"):
        compare(*runs)
