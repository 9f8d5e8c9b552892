"""Small tables for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["html_table"]


def html_table(
    rows: Iterable[Sequence[object]], columns: Sequence[str] | None = None, caption: str | None = None
) -> str:
    """An HTML table; whatever stands in it is escaped, the first cell of every row is its heading.

    Parameters
    ----------
    rows : iterable of sequence
    columns : sequence of str, optional
    caption : str, optional

    Examples
    --------
    >>> html_table([("a<b", 1)], caption="x")
    '<table><caption>x</caption><tr><th scope="row">a&lt;b</th><td>1</td></tr></table>'
    """
    parts = ["" if caption is None else f"<caption>{html.escape(caption)}</caption>"]
    if columns is not None:
        heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
        parts.append(f"<tr>{heads}</tr>")
    for first, *others in rows:
        cells = "".join(f"<td>{html.escape(str(value))}</td>" for value in others)
        parts.append(f'<tr><th scope="row">{html.escape(str(first))}</th>{cells}</tr>')
    return f"<table>{''.join(parts)}</table>"
