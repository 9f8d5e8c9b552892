"""The overall verdict: which pairs to use, how many directions to remove, and what that buys.

The pair set is chosen by the *selection* score of its probe (a validation score); test accuracies are
reported beside the choice and never enter it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cfpairs.report.actions import Adviser, first_pairs, fit_probes
from cfpairs.report.model import LEVELS, KeyNumber, PairSetInput, Result, Step, Verdict
from cfpairs.report.values import as_int, as_mapping, count, per_cent, range_text, share
from cfpairs.report.words import rule, sentence

__all__ = ["choose", "gain", "matching_erm", "overall", "quality_level"]


def quality_level(quality: Mapping[str, Any] | None) -> str | None:
    """The level that the quality of a pair set was given; None if there is none that is known."""
    level = as_mapping(as_mapping(quality).get("verdict")).get("level")
    return level if level in LEVELS else None


def choose(results: Sequence[Result], levels: Mapping[str, str | None]) -> Result | None:
    """The NCM result to recommend: best validation score, then best pair quality, then smaller r.

    Parameters
    ----------
    results : sequence of Result
        Of the primary selection rule.
    levels : mapping of str to (str or None)
        Quality level of each pair set.
    """
    candidates = [row for row in results if row.method == "ncm" and row.r is not None]
    if not candidates:
        return None

    def merit(row: Result) -> tuple[bool, float, int, int]:
        level = levels.get(row.pair_set or "")
        place = LEVELS.index(level) if level in LEVELS else len(LEVELS)
        known = row.score is not None
        return known, row.score or 0.0, -place, -(row.r or 0)

    return max(candidates, key=merit)


def matching_erm(results: Sequence[Result], best: Result | None) -> Result | None:
    """The ERM result to compare with: tuned with the same pair set, else with none, else the best scored."""
    rows = [row for row in results if row.method == "erm"]
    if not rows:
        return None

    def merit(row: Result) -> tuple[bool, bool, float]:
        same = best is not None and row.pair_set == best.pair_set
        return same, row.pair_set is None, row.score if row.score is not None else float("-inf")

    return max(rows, key=merit)


def gain(best: Result | None, baseline: Result | None) -> str:
    """How `best` compares with `baseline` on test: ``clear``, ``unclear``, ``worse`` or ``unknown``.

    A gain is clear, and a loss is a loss, only where the interval of the difference leaves out zero; where
    the difference was not tested on the same items, where the two intervals do not overlap.
    """
    if best is None or baseline is None or best.worst_group is None or baseline.worst_group is None:
        return "unknown"
    if best.gain_low is not None and best.gain_high is not None:
        return "clear" if best.gain_low > 0 else "worse" if best.gain_high < 0 else "unclear"
    low = best.worst_group if best.worst_group_low is None else best.worst_group_low
    high = best.worst_group if best.worst_group_high is None else best.worst_group_high
    if low > (baseline.worst_group if baseline.worst_group_high is None else baseline.worst_group_high):
        return "clear"
    if high < (baseline.worst_group if baseline.worst_group_low is None else baseline.worst_group_low):
        return "worse"
    return "unclear"


def overall(
    pair_sets: Sequence[PairSetInput],
    best: Result | None,
    baseline: Result | None,
    has_results: bool,
    adviser: Adviser | None = None,
) -> Verdict:
    """The verdict of the whole report.

    Parameters
    ----------
    best : Result or None
        As `choose` gives it.
    baseline : Result or None
        As `matching_erm` gives it.
    has_results : bool
        Whether any probe was fitted.
    adviser : Adviser or None
        By default one that knows no names.
    """
    if best is None:
        return _without_probe(pair_sets, has_results)
    named = next((p for p in pair_sets if p.name == best.pair_set), None)
    quality = named.quality if named else None
    level = quality_level(quality)
    outcome = gain(best, baseline)
    shown = level or ("usable" if outcome == "clear" else "needs_pairs")
    return Verdict(
        level=shown,
        headline=_headline(shown, best, outcome),
        evidence=_evidence(best, baseline),
        reason=_reason(quality, level) + _other_r(quality, best),
        next_steps=(adviser or Adviser()).next_steps(named, shown, outcome, best),
        numbers=_numbers(best, baseline, quality),
        pair_set=best.pair_set,
        recommended_r=best.r,
    )


def _headline(level: str, best: Result, outcome: str) -> str:
    pairs = f"the {best.pair_set} pairs" if best.pair_set else "these pairs"
    if level == "changes_label":
        return f"Do not use {pairs} as they are"
    if level == "fix_pairs":
        return f"Mend {pairs} before you rely on them"
    if best.r == 0:
        return f"Keep the plain probe: no number of removed directions did better with {pairs}"
    directions = f"r = {best.r} direction{'' if best.r == 1 else 's'}"
    if outcome == "worse":
        return f"Keep the plain probe: removing {directions} with {pairs} makes it worse"
    if level == "needs_pairs":
        more = f"Make more of {pairs}"
        return f"{more}; removing {directions} already helps" if outcome == "clear" else more
    if outcome == "unclear":
        return f"No clear gain yet from removing {directions} with {pairs}"
    return f"Use {pairs} and remove {directions}"


def _evidence(best: Result, baseline: Result | None) -> str:
    if best.worst_group is None:
        return "accuracy in the worst group could not be measured on test."
    text = "accuracy in the worst group (one label in one environment) is " + _with_interval(
        best, "95 % interval "
    )
    text += " on test"
    if baseline is None or baseline.worst_group is None:
        text += "; there is no plain probe (ERM) to compare it with"
    else:
        text += f", against {_with_interval(baseline)} for the plain probe (ERM)"
        text += _difference(best)
    if rule(best.selection).test_labels:
        text += "; these settings were chosen with test labels, so take the figure as a ceiling"
    return f"{text}."


def _difference(best: Result) -> str:
    """The tested difference from the plain probe, and what it means."""
    if best.gain is None or best.gain_low is None or best.gain_high is None:
        return ""
    side = "more" if best.gain >= 0 else "less"
    ends = sorted((abs(best.gain_low), abs(best.gain_high)))
    if best.gain_low <= 0 <= best.gain_high:
        return (
            f": {share(abs(best.gain))} points {side}, which may be chance "
            f"(95 % interval of the difference {share(best.gain_low)} to {share(best.gain_high)})"
        )
    return f": {share(abs(best.gain))} points {side} (95 % interval {share(ends[0])} to {share(ends[1])})"


def _with_interval(row: Result, prefix: str = "") -> str:
    interval = range_text(row.worst_group_low, row.worst_group_high)
    return per_cent(row.worst_group) + (f" ({prefix}{interval})" if interval else "")


def _reason(quality: Mapping[str, Any] | None, level: str | None) -> str:
    if quality is None:
        return "The quality of the pairs was not measured."
    text = sentence(as_mapping(quality.get("verdict")).get("text"))
    if text or level is None:
        return text
    return sentence(DEFAULT_REASONS[level])


def _other_r(quality: Mapping[str, Any] | None, best: Result) -> str:
    """The r that the pairs alone suggest, where another one was chosen."""
    suggested = as_int(as_mapping(quality).get("recommended_r"))
    if not suggested or not best.r or suggested == best.r:
        return ""
    return (
        f" From the pairs alone r = {suggested} would be suggested; {rule(best.selection).title} chose "
        f"r = {best.r}."
    )


DEFAULT_REASONS = {
    "good": "the pairs are good",
    "usable": "the pairs are usable",
    "needs_pairs": "there are too few pairs for reliable directions",
    "fix_pairs": "some pairs are broken",
    "changes_label": "the pairs change the label too",
}


def _numbers(
    best: Result, baseline: Result | None, quality: Mapping[str, Any] | None
) -> tuple[KeyNumber, ...]:
    dim = as_int(as_mapping(quality).get("dim"))
    pairs = as_int(as_mapping(quality).get("n_pairs")) or best.n_pairs
    learned = f"learned from {count(pairs)} pairs" if pairs else "learned from the pairs"
    return (
        KeyNumber(
            per_cent(best.worst_group),
            "worst group, directions removed",
            f"{_interval_note(best)}Test accuracy in the group where it is lowest; a group is one label in "
            "one environment. This probe is called NCM.",
        ),
        KeyNumber(
            per_cent(baseline.worst_group) if baseline else share(None),
            "worst group, plain probe",
            f"{_interval_note(baseline)}The same for an ordinary linear probe with nothing removed, "
            "called ERM.",
        ),
        KeyNumber(
            f"r = {best.r}",
            "directions removed",
            (f"Of {count(dim)} in the embedding: " if dim else "")
            + f"the ways in which the two sides of a pair differ most, {learned}.",
        ),
    )


def _interval_note(row: Result | None) -> str:
    interval = "" if row is None else range_text(row.worst_group_low, row.worst_group_high)
    return f"95 % interval {interval}. " if interval else ""


def _without_probe(pair_sets: Sequence[PairSetInput], has_results: bool) -> Verdict:
    """The verdict where no probe was fitted with pairs."""
    rated = [(p, quality_level(p.quality)) for p in pair_sets]
    known = [(p, level) for p, level in rated if level is not None]
    if not pair_sets:
        return _plain_verdict("needs_pairs", "There are no pairs yet", first_pairs())
    reason = "only probes without pairs have been fitted" if has_results else "none has been fitted yet"
    step = fit_probes(reason)
    unfitted = "Only probes without pairs have been fitted" if has_results else "No probe has been fitted yet"
    if not known:
        return _plain_verdict("needs_pairs", f"{unfitted}, and the pairs were not measured", step)
    best, level = min(known, key=lambda pair: LEVELS.index(pair[1]))
    reason = _reason(best.quality, level)
    return _plain_verdict(
        level,
        unfitted,
        step,
        reason=f"Of the pair sets, {best.name} looks best. {reason}".strip(),
        pair_set=best.name,
        recommended_r=as_int(as_mapping(best.quality).get("recommended_r")),
    )


def _plain_verdict(
    level: str,
    headline: str,
    step: Step,
    *,
    reason: str = "",
    pair_set: str | None = None,
    recommended_r: int | None = None,
) -> Verdict:
    return Verdict(level, headline, "", reason, (step,), (), pair_set, recommended_r)
