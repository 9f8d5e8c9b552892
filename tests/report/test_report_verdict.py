"""The verdict: what is chosen, on what grounds, and what is said."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from cfpairs.report.actions import Adviser
from cfpairs.report.assess import assess
from cfpairs.report.groups import Names
from cfpairs.report.model import LEVELS, PairSetInput, Result, Step
from cfpairs.report.verdict import choose, gain, matching_erm, overall
from tests.report.sample import advised


def result(**changes: Any) -> Result:
    row = Result(
        pair_set="edit", method="ncm", r=4, selection="pairs", seed=None, worst_group=0.70,
        worst_group_low=0.66, worst_group_high=0.74, average=0.8, adjusted=0.85, flip_rate=0.05,
        n_pairs=240, C=1e-4, score=0.72,
    )  # fmt: skip
    return replace(row, **changes)


ERM = result(method="erm", r=0, worst_group=0.09, worst_group_low=0.07, worst_group_high=0.12, score=0.2)


def pair_set(name: str = "edit", level: str | None = "good", **quality: Any) -> PairSetInput:
    known = {"verdict": {"level": level, "text": f"they are {level}"}, "dim": 1280, "n_pairs": 240}
    return PairSetInput(name, name, {"ok": 240}, {**known, **quality} if level else None, [], "")


def test_the_choice_follows_the_validation_score_and_never_the_test_accuracy() -> None:
    validated = result(pair_set="edit", score=0.60, worst_group=0.30)
    lucky = result(pair_set="random", score=0.50, worst_group=0.99)
    assert choose([lucky, validated], {}) is validated
    assert choose([lucky, replace(validated, score=0.40)], {}) is lucky  # the score does decide


def test_changing_test_accuracies_never_changes_the_choice() -> None:
    rows = [result(pair_set=name, score=score) for name, score in (("a", 0.5), ("b", 0.7), ("c", 0.6))]
    for accuracies in itertools.permutations((0.1, 0.5, 0.9)):
        shuffled = [replace(row, worst_group=w) for row, w in zip(rows, accuracies, strict=True)]
        found = choose(shuffled, {})
        assert found is not None and found.pair_set == "b"


def test_a_result_without_a_score_loses_and_ties_go_to_the_better_pairs_then_the_smaller_r() -> None:
    unscored = result(pair_set="random", score=None)
    assert choose([unscored, result(score=0.01)], {}).score == 0.01  # type: ignore[union-attr]
    tied = [result(pair_set="nearest", r=1), result(pair_set="edit", r=8)]
    levels = {"nearest": "fix_pairs", "edit": "good"}
    assert choose(tied, levels) is tied[1]
    assert choose(tied, {}) is tied[0]


def test_only_ncm_is_recommended() -> None:
    assert choose([ERM, result(method="leace", score=0.99)], {}) is None
    assert choose([], {}) is None


def test_erm_is_taken_from_the_same_pair_set_then_from_none() -> None:
    other, shared = replace(ERM, pair_set="random", score=0.9), replace(ERM, pair_set=None, score=0.1)
    assert matching_erm([other, shared, ERM], result()) is ERM
    assert matching_erm([other, shared], result()) is shared
    assert matching_erm([other], result()) is other
    assert matching_erm([result()], result()) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.13, 0.30, "clear"), (0.11, 0.30, "unclear"), (0.01, 0.06, "worse"), (0.05, 0.08, "unclear")],
)
def test_a_gain_needs_intervals_that_do_not_overlap(low: float, high: float, expected: str) -> None:
    row = result(worst_group=(low + high) / 2, worst_group_low=low, worst_group_high=high)
    assert gain(row, ERM) == expected


def test_a_gain_is_unknown_without_both_figures() -> None:
    assert gain(None, ERM) == gain(result(), None) == "unknown"
    assert gain(result(worst_group=None), ERM) == "unknown"


def test_the_verdict_of_good_pairs_names_pairs_rank_and_both_accuracies() -> None:
    verdict = overall([pair_set()], result(), ERM, True)
    assert (verdict.level, verdict.pair_set, verdict.recommended_r) == ("good", "edit", 4)
    assert verdict.text.startswith(
        "Use the edit pairs and remove r = 4 directions: accuracy in the worst group (one label in one "
        "environment) is 70.0 % (95 % interval 66.0 to 74.0) on test, against 9.0 % (7.0 to 12.0) for the "
        "plain probe (ERM). They are good. "
    )
    assert [n.value for n in verdict.numbers] == ["70.0 %", "9.0 %", "r = 4"]


def test_one_direction_is_singular() -> None:
    assert "remove r = 1 direction:" in overall([pair_set()], result(r=1), ERM, True).text


@pytest.mark.parametrize(
    ("level", "start"),
    [
        ("usable", "Use the edit pairs and remove r = 4 directions"),
        ("needs_pairs", "Make more of the edit pairs; removing r = 4 directions already helps"),
        ("fix_pairs", "Mend the edit pairs before you rely on them"),
        ("changes_label", "Do not use the edit pairs as they are"),
    ],
)
def test_each_level_leads_to_its_own_action(level: str, start: str) -> None:
    verdict = overall([pair_set(level=level)], result(), ERM, True)
    assert verdict.level == level and verdict.text.startswith(start)
    assert verdict.next_steps


def test_no_gain_is_never_sold_as_one() -> None:
    same = result(worst_group=0.10, worst_group_low=0.08, worst_group_high=0.13)
    worse = result(worst_group=0.02, worst_group_low=0.01, worst_group_high=0.04)
    assert overall([pair_set()], same, ERM, True).headline.startswith("No clear gain yet")
    assert overall([pair_set()], worse, ERM, True).headline.startswith("Keep the plain probe")
    assert overall([pair_set()], result(r=0), ERM, True).headline.startswith("Keep the plain probe")
    for row in (same, worse, result(r=0)):
        assert "Use the" not in overall([pair_set()], row, ERM, True).text


def test_without_quality_the_measured_gain_decides_and_the_text_says_so() -> None:
    clear = overall([pair_set(level=None)], result(), ERM, True)
    assert clear.level == "usable" and "was not measured" in clear.reason
    same = result(worst_group=0.10, worst_group_low=0.08, worst_group_high=0.13)
    assert overall([pair_set(level=None)], same, ERM, True).level == "needs_pairs"


def test_an_unknown_level_is_treated_as_none() -> None:
    assert overall([pair_set(level="splendid")], result(), ERM, True).level in LEVELS


def test_without_erm_or_intervals_the_text_still_reads() -> None:
    verdict = overall([pair_set()], result(worst_group_low=None), None, True)
    assert "is 70.0 % on test; there is no plain probe (ERM) to compare it with." in verdict.text
    assert verdict.numbers[1].value == "n/a"


def test_a_worst_group_that_was_not_measured_is_said() -> None:
    verdict = overall([pair_set()], result(worst_group=None), ERM, True)
    assert "could not be measured" in verdict.text and "nan" not in verdict.text.lower()


def test_choices_made_with_test_labels_are_marked() -> None:
    assert "ceiling" in overall([pair_set()], result(selection="oracle"), ERM, True).text
    assert "ceiling" not in overall([pair_set()], result(), ERM, True).text


def test_without_ncm_the_best_pairs_are_named_and_the_next_command_is_given() -> None:
    sets = [pair_set("random", "fix_pairs"), pair_set("edit", "usable", recommended_r=6)]
    verdict = overall(sets, None, ERM, True)
    assert (verdict.level, verdict.pair_set, verdict.recommended_r) == ("usable", "edit", 6)
    assert verdict.next_steps[0].command == "cfpairs probe --method erm --method ncm" and not verdict.numbers


def test_without_anything_the_verdict_asks_for_pairs() -> None:
    verdict = overall([], None, None, False)
    assert verdict.level == "needs_pairs" and verdict.next_steps[0].command == "cfpairs build --method edit"
    assert verdict.recommended_r is None
    unmeasured = overall([pair_set(level=None)], None, None, False)
    assert unmeasured.level == "needs_pairs" and "not measured" in unmeasured.text


def test_the_action_comes_first_then_the_advice_of_the_quality_once() -> None:
    advice = [
        advised("review", "drop copies"),
        advised("review", "drop copies"),
        advised("mend", ""),
        None,
        "x",
    ]
    good = overall([pair_set(advice=advice)], result(), ERM, True)
    use, drop = good.next_steps
    said = "Use the probe with r = 4, learned from the 240 edit pairs, and watch its worst group, "
    said += "not its average"
    assert use == Step(f"{said}.")
    known = overall([pair_set()], result(), ERM, True, Adviser(weights="probes/1/w")).next_steps[0]
    assert known == Step(f"{said}: its weights are edit/ncm/pairs in probes/1/w.")
    assert drop == Step("Drop copies.", "cfpairs review --pair-set edit")
    broken = overall([pair_set("edit", "fix_pairs", advice=advice)], result(), ERM, True)
    assert broken.next_steps == (drop,)
    assert broken.text.endswith("They are fix_pairs. Drop copies.") and not broken.finding.endswith("copies.")


def test_a_result_that_does_not_help_asks_for_other_pairs_with_its_figure() -> None:
    worse = replace(result(worst_group=0.02), gain=-0.07, gain_low=-0.1, gain_high=-0.04)
    (step,) = overall([pair_set()], worse, ERM, True).next_steps
    assert step.command is None and step.text.startswith("Make pairs that differ in what the probe leans on")
    assert step.text.endswith("stays at 2.0 %, 7.0 points below the plain probe.")


@pytest.mark.parametrize(
    ("row", "name", "method", "command"),
    [
        (advised("add", "more", n_pairs=960), "edit", "edit", "cfpairs build --method edit --pairs 960"),
        (
            advised("add", "more", n_pairs=960), "my set", "nearest",
            "cfpairs build --method nearest --name 'my set' --pairs 960",
        ),
        (advised("add", "more"), "edit", "edit", None),
        (advised("add", "more", n_pairs=960), "mine", "import", None),
        (advised("review", "look"), "; rm x", "edit", "cfpairs review --pair-set '; rm x'"),
        (advised("remake", "edit"), "random", "random", "cfpairs build --method edit"),
        (advised("remake", "edit"), "edit", "edit", None),
        (advised("control", "make"), "edit", "edit", None),
    ],
)  # fmt: skip
def test_the_command_of_a_step_does_what_it_says(
    row: dict[str, Any], name: str, method: str, command: str | None
) -> None:
    pairs = replace(pair_set(name, "needs_pairs", advice=[row]), method=method)
    assert Adviser(has_images=True).pair_steps(pairs)[0].command == command
    others = Adviser(has_images=True, methods=frozenset({"edit"})).pair_steps(pairs)[0].command
    assert others == (None if row["kind"] == "remake" else command)
    if row["kind"] == "remake":
        assert Adviser().pair_steps(pairs)[0].command is None


def test_without_advice_twice_the_pairs_that_are_used_are_asked_for() -> None:
    pairs = replace(pair_set("edit", "needs_pairs"), counts={"ok": 100, "rejected": 60, "dropped": 4})
    (step,) = Adviser().next_steps(pairs, "needs_pairs", "unclear", result())
    assert step.command == "cfpairs build --method edit --pairs 200"
    (step,) = Adviser().next_steps(replace(pairs, counts={"rejected": 9}), "needs_pairs", "unclear", result())
    assert step.command is None


def test_a_cell_is_called_by_its_names() -> None:
    names = Names({0: "cat", 1: "<b>"}, {0: "snow", 1: "sand"})
    rows = [
        advised(
            "cover", "Make pairs for label 1 between environments 0 and 1: none.", label=1, env_a=0, env_b=1
        ),
        advised("cover", "Make pairs for label 0 from environment 1 to 0: few.", label=0, env_a=1, env_b=0),
    ]
    assert [step.text for step in Adviser(names).pair_steps(pair_set(advice=rows))] == [
        "Make pairs for <b> between snow and sand: none.", "Make pairs for cat from sand to snow: few.",
    ]  # fmt: skip


def test_every_level_without_advice_still_has_a_step() -> None:
    for level in LEVELS:
        (step,) = overall([pair_set(level=level)], result(), ERM, True).next_steps
        assert step.text.endswith(".") and step.text[0].isupper()
    assert overall([pair_set(level="needs_pairs")], result(), ERM, True).next_steps[0].command == (
        "cfpairs build --method edit --pairs 480"
    )


def test_a_tested_difference_decides_before_intervals_do() -> None:
    tested = {"gain": 0.03, "gain_low": 0.01, "gain_high": 0.05, "gain_p": 0.002}
    close = replace(result(), worst_group=0.4, worst_group_low=0.35, worst_group_high=0.45)
    erm = replace(ERM, worst_group=0.37, worst_group_low=0.32, worst_group_high=0.42)
    assert gain(close, erm) == "unclear"
    assert gain(replace(close, **tested), erm) == "clear"
    assert gain(replace(close, **(tested | {"gain_low": -0.01})), erm) == "unclear"
    assert gain(replace(close, **(tested | {"gain_low": -0.05, "gain_high": -0.01})), erm) == "worse"
    verdict = overall([pair_set()], replace(close, **tested), erm, True)
    assert "3.0 points more (95 % interval 1.0 to 5.0)" in verdict.evidence


def minimal(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "title": "t", "groups": [], "pair_sets": [], "results": [], "curves": [], "selection": "pairs",
        "image_of": lambda _item: None, "item_of": lambda _item: {}, "data": {}, "provenance": {},
        "gallery": 0,
    }  # fmt: skip
    return given | changes


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "pair_set": "edit", "method": "ncm", "r": 4, "selection": "pairs", "seed": None, "worst_group": 0.7,
        "worst_group_low": 0.66, "worst_group_high": 0.74, "average": 0.8, "adjusted": 0.8, "flip_rate": None,
        "n_pairs": 240, "seconds": 1.0, "params": '{"C": 0.001, "score": 0.6}',
    }  # fmt: skip
    return base | changes


def test_the_primary_rule_falls_back_to_one_without_test_labels() -> None:
    rows = [row(selection="oracle"), row(selection="in-domain")]
    data = assess(**minimal(results=rows))
    assert data.selection == "in-domain"
    assert [view.name for view in data.rules] == ["in-domain", "oracle"]
    assert assess(**minimal(results=rows[:1])).selection == "oracle"
    assert assess(**minimal()).selection is None


def test_scores_of_other_rules_do_not_choose() -> None:
    rows = [
        row(pair_set="edit", params='{"score": 0.6}'),
        row(pair_set="random", params='{"score": 0.5}'),
        row(pair_set="random", selection="oracle", params='{"score": 0.99}'),
    ]
    data = assess(**minimal(results=rows, pair_sets=[pair_set("edit"), pair_set("random")]))
    assert data.verdict.pair_set == "edit"


def test_nan_in_results_is_absent_and_never_wins() -> None:
    nan = math.nan
    rows = [
        row(pair_set="edit", params='{"score": NaN}'),
        row(pair_set="random", params='{"score": 0.3}', worst_group=nan, worst_group_low=nan),
        row(pair_set="random", method="erm", r=0, worst_group=nan),
    ]
    data = assess(**minimal(results=rows, pair_sets=[pair_set("edit"), pair_set("random")]))
    assert data.verdict.pair_set == "random" and data.best is not None and data.best.worst_group is None
    assert "nan" not in data.verdict.text.lower()


def test_params_that_are_no_json_do_not_stop_the_report() -> None:
    data = assess(**minimal(results=[row(params="{broken"), row(method="erm", r=0, params=None)]))
    assert data.best is not None and data.best.score is None


def test_runs_without_a_mean_are_shown_as_they_are_and_means_know_their_spread() -> None:
    runs = [row(seed=s, worst_group=w) for s, w in ((0, 0.68), (1, 0.70), (2, 0.72))]
    assert [r.seed for r in assess(**minimal(results=runs)).rules[0].results] == [0, 1, 2]
    (mean,) = assess(**minimal(results=[*runs, row(params='{"r_by_seed": [4, 8, 4]}')])).rules[0].results
    assert mean.seed is None and mean.spread == pytest.approx(0.02) and mean.ranks == (4, 8)
