"""The words of the report: names and one-line explanations of levels, selection rules and probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "LEVEL_NAMES",
    "Rule",
    "flag_meaning",
    "join",
    "probe_meaning",
    "probe_name",
    "rule",
    "sentence",
    "series_name",
    "set_name",
    "status_meaning",
]

LEVEL_NAMES = {
    "good": "Good pairs",
    "usable": "Usable pairs",
    "needs_pairs": "More pairs needed",
    "fix_pairs": "Pairs need mending",
    "changes_label": "Pairs change the label",
}


class Rule(NamedTuple):
    """What a selection rule does, and whether it looks at test labels."""

    title: str
    meaning: str
    test_labels: bool = False
    short: str = ""


_RULES = {
    "pairs": Rule(
        "held-out pairs",
        "every setting is judged on pairs kept out of the fit, both sides of a pair counting as items, by "
        "its worst group; it needs no test label and no validation set with known environments",
        short="pairs",
    ),
    "in-domain": Rule(
        "in-domain",
        "every setting is judged by its average accuracy on training items kept out of the fit, where the "
        "shortcut still works, so it tends to keep the shortcut",
        short="domain",
    ),
    "validation": Rule(
        "validation",
        "every setting is judged by its average accuracy on the validation split",
        short="val",
    ),
    "worst-group": Rule(
        "worst group of validation",
        "every setting is judged by its worst group on the validation split, which needs environment "
        "labels there",
        short="val worst",
    ),
    "leave-one-env-out": Rule(
        "leave one environment out",
        "every setting is judged on each environment in turn after fitting on the others",
        short="env out",
    ),
    "oracle": Rule(
        "oracle",
        "every setting is judged on test itself: a ceiling to compare with, not an accuracy to expect",
        test_labels=True,
        short="oracle",
    ),
}

_PROBES = {
    "erm": ("ERM", "the plain linear probe, trained on every direction of the embedding"),
    "ncm": ("NCM", "the same probe after the top r directions of the pair differences were removed"),
}


def rule(name: str) -> Rule:
    """The words for a selection rule; an unknown one is called by its name."""
    return _RULES.get(name, Rule(name, f"settings are chosen by the rule {name}", short=name))


def probe_name(method: str) -> str:
    """The name of a probe as the field writes it."""
    return _PROBES.get(method, (method, ""))[0]


def probe_meaning(method: str) -> str:
    """What a probe is, in one clause; empty for one that is not known here."""
    return _PROBES.get(method, ("", ""))[1]


_FLAGS = {
    "failed edit": "the two sides hardly differ, so the pair shows no change of environment",
    "duplicate": "the pair repeats the difference of another and adds nothing",
    "outlier": "the pair differs in a way that the others do not; one odd pair can turn a direction",
    "wrong match": "the two sides are no real partners: other pairs fit each side better",
    "label-changing": "the change reaches into what tells the labels apart, which must stay",
    "dominates": "a few long pairs decide a direction; they may be right, but look at them",
}

_STATUSES = {
    "rejected": "a check stopped the pair when it was made; it was not used",
    "dropped": "the pair was taken out; it was not used",
    "dropped by hand": "a person took the pair out on the review page; it was not used",
}


def flag_meaning(name: str) -> str:
    """What a flag says of a pair, in one clause; empty for one that is not known here."""
    return _FLAGS.get(name, "")


def status_meaning(status: str) -> str:
    """Why a pair with this status is not used; empty for one that is not known here."""
    return _STATUSES.get(status, "")


def set_name(pair_set: str | None) -> str:
    """The name of a pair set in a table; a probe that uses no pairs has none."""
    return "no pairs" if pair_set is None else pair_set


def join(parts: Sequence[str]) -> str:
    """A list in a sentence.

    Examples
    --------
    >>> join(["grass", "gravel", "brick"])
    'grass, gravel and brick'
    """
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def sentence(text: object) -> str:
    """`text` as a sentence: a capital in front and a full stop behind; empty if it is no text.

    Examples
    --------
    >>> sentence("both halves agree")
    'Both halves agree.'
    """
    if not isinstance(text, str) or not text.strip():
        return ""
    clean = " ".join(text.split())
    clean = clean[0].upper() + clean[1:]
    return clean if clean[-1] in ".!?" else f"{clean}."


def series_name(pair_set: str | None, method: str, only_ncm: bool) -> str:
    """How a curve is called in a legend."""
    if only_ncm:
        return set_name(pair_set)
    return probe_name(method) if pair_set is None else f"{pair_set}, {probe_name(method)}"
