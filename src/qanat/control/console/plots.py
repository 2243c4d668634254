"""Small plots as SVG, drawn here: no script, no style attribute, and a sentence for those who cannot see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from markupsafe import Markup

from qanat.control.nouns import TrafficPoint

WIDTH, HEIGHT = 320, 72
FIGURE = Markup(
    '<figure class="plot"><figcaption>{title} <b>{newest}</b> {unit}</figcaption>'
    '<svg viewBox="0 0 320 72" role="img" aria-label="{text}" preserveAspectRatio="none">'
    '<polyline points="{points}"/></svg></figure>'
)
"""`Markup.format` escapes what is put in."""
Value = Callable[[TrafficPoint], float]


def plot(
    points: Sequence[TrafficPoint], value: Value, title: str, unit: str, until: datetime, steps: int, step: timedelta
) -> Markup:
    """One quantity over the last `steps` steps of time; a step without traffic is zero."""
    by_time = {point.time: value(point) for point in points}
    start = until - steps * step
    values = [by_time.get(start + number * step, 0.0) for number in range(steps)]
    top = max([*values, 1e-9])
    corners = [
        f"{number * WIDTH / max(steps - 1, 1):.1f},{HEIGHT - v / top * (HEIGHT - 6):.1f}"
        for number, v in enumerate(values)
    ]
    newest, text = values[-1], f"{title}: now {values[-1]:,.4g} {unit}, at most {max(values):,.4g} {unit}"
    return FIGURE.format(title=title, newest=f"{newest:,.4g}", unit=unit, text=text, points=" ".join(corners))
