import pytest

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.eval.rbo import rbo_ext


def test_by_hand() -> None:
    # Agreements 0, 1/2, 1 at p = 0.5: 0.5 * (0 + 0.5/2 + 1/4) + 1/8.
    assert rbo_ext("abc", "bca", 0.5) == pytest.approx(0.5 * (0 + 0.25 / 1 + 0.25) + 0.125)
    # One item in common at depth 2 of 2, in other places: 0.1 * (0 + 0.9/2) + 0.81/2.
    assert rbo_ext(["a", "b"], ["b", "c"]) == pytest.approx(0.1 * 0.45 + 0.81 * 0.5)
    assert rbo_ext(["a"], ["b"]) == 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
def test_the_same_ranking_has_1_and_another_one_0(p: float) -> None:
    assert rbo_ext(range(50), range(50), p) == pytest.approx(1, abs=1e-12)
    assert rbo_ext(range(50), range(50, 100), p) == 0
    assert rbo_ext([], [], p) == 1
    assert rbo_ext([], ["a"], p) == 0


def test_lists_of_unequal_length() -> None:
    # What is seen agrees in full, and is taken to go on.
    assert rbo_ext("ab", "abcd") == pytest.approx(1)
    # S = a, L = b a c; p = 0.5. Overlaps 0, 1, 1; X_s = 0, so nothing is added for the rest of S:
    # 0.5 * (0 + 0.5 * 1/2 + 0.25 * 1/3) + 0.125 * (1 - 0)/3.
    expected = 0.5 * (0.25 + 0.25 / 3) + 0.125 / 3
    assert rbo_ext("a", "bac", 0.5) == pytest.approx(expected)
    assert rbo_ext("bac", "a", 0.5) == pytest.approx(expected)
    # S = a, L = a b c: overlap 1 at each depth, and S goes on with its full agreement:
    # depth 2: 1/2 + 1 * 1/(1*2) = 1, depth 3: 1/3 + 1 * 2/(1*3) = 1; all of it 1.
    assert rbo_ext("a", "abc", 0.5) == pytest.approx(1)
    # S = a b, L = a c b; p = 0.5: overlaps 1, 1, 2; X_s = 1.
    expected = 0.5 * (1 + 0.5 / 2 + 0.25 * (2 / 3 + 1 / (2 * 3))) + 0.125 * (1 / 3 + 1 / 2)
    assert rbo_ext("ab", "acb", 0.5) == pytest.approx(expected)


def test_a_swap_at_the_top_weighs_more() -> None:
    assert rbo_ext("abcd", "bacd") < rbo_ext("abcd", "abdc")


def test_refused() -> None:
    with pytest.raises(InvalidInputError, match="repeated"):
        rbo_ext("aa", "ab")
    for p in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            rbo_ext("ab", "ab", p)
