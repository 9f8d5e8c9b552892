"""What to do next: actions in the imperative, the most important first, with the command to type."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cfpairs.report.groups import Names
from cfpairs.report.model import PairSetInput, Result, Step
from cfpairs.report.values import as_int, as_mapping, as_rows, count, per_cent, share
from cfpairs.report.words import sentence

__all__ = ["Adviser", "first_pairs", "fit_probes"]

MATCHERS = ("nearest", "random")
"""Ways of making pairs that join two items, where an edit of one would be cleaner."""

DEFAULT_STEPS = {
    "needs_pairs": "make more pairs of the same kind, first for groups that have few",
    "fix_pairs": "look at the pairs set apart below, and mend or drop them",
    "changes_label": "make pairs whose two sides differ in the environment only",
}
"""Where the quality says nothing; the other levels go on from the result."""


@dataclass(frozen=True)
class Adviser:
    """Puts what the quality of pairs advises into the words and commands of one workspace.

    Attributes
    ----------
    names : Names
        Of labels and environments.
    has_images : bool
        Whether items have images that could be edited.
    methods : frozenset of str
        Ways in which its pairs were made.
    weights : str or None
        File of the weights of the probes, in the workspace.
    """

    names: Names = field(default_factory=lambda: Names({}, {}))
    has_images: bool = False
    methods: frozenset[str] = frozenset()
    weights: str | None = None

    def next_steps(
        self, pairs: PairSetInput | None, level: str, outcome: str, best: Result
    ) -> tuple[Step, ...]:
        """What to do about the result that the verdict speaks of, the most important first.

        Parameters
        ----------
        pairs : PairSetInput or None
            The pair set of `best`.
        level : str
            The verdict's.
        outcome : str
            As `cfpairs.report.verdict.gain` says.
        """
        advised = () if pairs is None else self.pair_steps(pairs)
        if level in DEFAULT_STEPS:
            return advised or (_default(pairs, level),)
        return (_overall(best, outcome, self.weights), *advised)

    def pair_steps(self, pairs: PairSetInput) -> tuple[Step, ...]:
        """What the quality of a pair set advises, each step once."""
        rows = as_rows(as_mapping(pairs.quality).get("advice"))
        steps = (Step(sentence(self._text(row)), self._command(row, pairs)) for row in rows)
        return tuple(dict.fromkeys(step for step in steps if step.text))

    def _text(self, row: Mapping[str, Any]) -> str:
        """The sentence of the quality, with names for the codes of a label and two environments."""
        text = row.get("text")
        if not isinstance(text, str):
            return ""
        label, a, b = row.get("label"), row.get("env_a"), row.get("env_b")
        name, first, second = self.names.label(label), self.names.env(a), self.names.env(b)
        for codes, words in (
            (f"label {label} between environments {a} and {b}", f"{name} between {first} and {second}"),
            (f"label {label} from environment {a} to {b}", f"{name} from {first} to {second}"),
        ):
            text = text.replace(codes, words)
        return text

    def _command(self, row: Mapping[str, Any], pairs: PairSetInput) -> str | None:
        kind = row.get("kind")
        if kind == "review":
            return _review(pairs)
        if kind == "add":
            return _build(pairs, as_int(row.get("n_pairs")))
        # An edit of one image is cleaner than a match of two; where there are edits already, it is no news.
        cleaner = pairs.method in MATCHERS and self.has_images and "edit" not in self.methods
        return "cfpairs build --method edit" if kind == "remake" and cleaner else None


def fit_probes(reason: str) -> Step:
    """The step where no probe with pairs was fitted."""
    return Step(sentence(f"fit the probes: {reason}"), "cfpairs probe --method erm --method ncm")


def first_pairs() -> Step:
    """The step where there is no pair."""
    return Step("Make pairs: there are none yet.", "cfpairs build --method edit")


def _overall(best: Result, outcome: str, weights: str | None) -> Step:
    if best.r == 0 or outcome in ("unclear", "worse"):
        return Step(
            "Make pairs that differ in what the probe leans on: with these the worst group stays at "
            f"{per_cent(best.worst_group)}{_gained(best)}."
        )
    learned = f", learned from the {count(best.n_pairs)} {best.pair_set} pairs" if best.n_pairs else ""
    use = f"Use the probe with r = {best.r}{learned}, and watch its worst group, not its average"
    if weights is None or not best.pair_set:
        return Step(f"{use}.")
    return Step(f"{use}: its weights are {best.pair_set}/{best.method}/{best.selection} in {weights}.")


def _gained(best: Result) -> str:
    if best.gain is None or best.r == 0:
        return ""
    return f", {share(abs(best.gain))} points {'above' if best.gain >= 0 else 'below'} the plain probe"


def _default(pairs: PairSetInput | None, level: str) -> Step:
    if pairs is None:
        return Step(sentence(DEFAULT_STEPS[level]))
    n = pairs.counts.get("ok", 0)
    known = {
        "needs_pairs": _build(pairs, 2 * n) if n else None,
        "fix_pairs": _review(pairs),
        "changes_label": None,
    }
    return Step(sentence(DEFAULT_STEPS[level]), known[level])


def _review(pairs: PairSetInput) -> str:
    return f"cfpairs review --pair-set {shlex.quote(pairs.name)}"


def _build(pairs: PairSetInput, n: int | None) -> str | None:
    """The command that makes `n` pairs of the same kind; an imported set has as many as its file."""
    if n is None or pairs.method == "import":
        return None
    words = [f"cfpairs build --method {shlex.quote(pairs.method)}"]
    if pairs.name != pairs.method:
        words.append(f"--name {shlex.quote(pairs.name)}")
    return " ".join((*words, f"--pairs {n}"))
