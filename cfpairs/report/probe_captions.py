"""What the figures of accuracy show, worked out from their numbers, and why the chosen r was chosen."""

from __future__ import annotations

from cfpairs.report.model import MapCell, MapView, ReportData
from cfpairs.report.svg import MAX_SERIES
from cfpairs.report.values import count, number, per_cent, range_text
from cfpairs.report.verdict import gain
from cfpairs.report.words import rule

__all__ = ["average_caption", "choice_text", "curve_caption", "map_caption"]


def curve_caption(data: ReportData) -> str:
    """What the accuracy curves say about the chosen r."""
    best, erm = data.best, data.baseline
    parts = []
    if best is None:
        parts.append("No probe of this kind was chosen by the primary rule, so no r is marked.")
    elif best.worst_group is None:
        parts.append("The worst group of the chosen probe could not be measured.")
    else:
        place = f"At r = {best.r}, chosen by {rule(best.selection).title}, {_who(best.pair_set)} reaches "
        place += per_cent(best.worst_group)
        if erm is not None and erm.worst_group is not None:
            points = 100 * (best.worst_group - erm.worst_group)
            place += f", {abs(points):.1f} points {'above' if points >= 0 else 'below'} the plain probe (ERM)"
            place += {
                "clear": "; that is more than the choice of test items explains, so the gain is real.",
                "worse": "; that is more than the choice of test items explains: removing does harm here.",
                "unclear": "; another choice of test items could turn that around, so no gain is shown.",
                "unknown": ".",
            }[gain(best, erm)]
        else:
            place += "."
        parts.append(place)
        parts.append(_peak(data))
    if sum(c.chosen_r is not None for c in data.curves) > 1:
        parts.append("Rings mark the r that the rule chose for each pair set.")
    if len(data.curves) > MAX_SERIES:
        parts.append(f"Only {MAX_SERIES} of {len(data.curves)} curves are drawn; the numbers below have all.")
    return " ".join(part for part in parts if part)


def _who(pair_set: str | None) -> str:
    return "NCM" if pair_set is None else f"NCM with the {pair_set} pairs"


def _peak(data: ReportData) -> str:
    """Where the curve of the chosen probe is highest, against where it was chosen."""
    best = data.best
    curve = next(
        (c for c in data.curves if best and c.pair_set == best.pair_set and c.method == best.method), None
    )
    if best is None or best.worst_group is None or curve is None or len(curve.points) < 2:
        return ""
    top = max(curve.points, key=lambda p: p.worst_group)
    # on the curve itself, so that a mean over seeds is not held against a single fit
    here = next((p.worst_group for p in curve.points if p.r == best.r), best.worst_group)
    lost = 100 * (top.worst_group - here)
    if top.r == best.r or lost <= 0:
        return "No other r on its curve is higher."
    verdict = "a small loss" if lost < 3 else "a loss that better validation pairs could win back"
    return (
        f"Its curve is highest at r = {top.r} ({per_cent(top.worst_group)}), {verdict} of {lost:.1f} points; "
        "that peak is seen on test only and was not used to choose."
    )


def average_caption(data: ReportData) -> str:
    """What the average says beside the worst group."""
    best, erm = data.best, data.baseline
    if best is None or best.average is None:
        return "The average over all test items, for comparison with the worst group."
    interval = range_text(best.average_low, best.average_high)
    text = f"At r = {best.r} the average is {per_cent(best.average)}"
    text += f" (95 % interval {interval})" if interval else ""
    if erm is None or erm.average is None or best.worst_group is None or erm.worst_group is None:
        return f"{text}."
    points = 100 * (best.average - erm.average)
    text += f", {abs(points):.1f} points {'above' if points >= 0 else 'below'} the plain probe (ERM)."
    moved = 100 * (best.worst_group - erm.worst_group)
    if moved > 2 * abs(points):
        text += " The average hides most of what the worst group gains: do not judge by it."
    elif points < 0 < moved:
        text += " The worst group is bought with a loss in the groups that the shortcut served."
    return text


def choice_text(data: ReportData) -> str:
    """Which r was chosen, by what, and what stood against others."""
    best = data.best
    if best is None:
        return ""
    words = rule(best.selection)
    text = (
        f"r = {best.r} and ridge strength C = {number(best.C)} were chosen by {words.title}: {words.meaning}."
    )
    if best.tried:
        text += f" It chose among {count(best.tried)} settings"
        text += f" with a score of {per_cent(best.score)}." if best.score is not None else "."
    text += (
        " Test labels were used, so the accuracy is a ceiling."
        if words.test_labels
        else " No test item was looked at; the test figures here only show what came of it."
    )
    if best.ranks:
        text += f" Seeds chose r from {best.ranks[0]} to {best.ranks[-1]}."
    return text


def map_caption(view: MapView) -> str:
    """Where the accuracy is high, and how far the choice is from the highest."""
    known = [cell for row in view.rows for cell in row if cell.worst_group is not None]
    if not known:
        return ""
    top = max(known, key=_worst)
    text = f"Highest at r = {top.r}, C = {number(top.C)} ({per_cent(top.worst_group)})"
    here = next((c for c in known if (c.r, c.C) == view.chosen), None)
    if here is not None:
        lost = 100 * (_worst(top) - _worst(here))
        text += (
            f"; the framed choice, r = {here.r}, C = {number(here.C)}, reaches {per_cent(here.worst_group)}"
        )
        text += "." if lost < 3 else f", {lost:.1f} points less, which test alone could have told."
    else:
        text += "."
    spread = [max(cells) - min(cells) for cells in _by_rank(view) if len(cells) > 1]
    if spread and max(spread) > 0.05:
        text += f" At one r the ridge moves it by up to {100 * max(spread):.1f} points: tune both together."
    elif spread:
        text += " The ridge hardly matters here."
    return text


def _worst(cell: MapCell) -> float:
    return cell.worst_group or 0.0


def _by_rank(view: MapView) -> list[list[float]]:
    return [[c.worst_group for c in row if c.worst_group is not None] for row in view.rows]
