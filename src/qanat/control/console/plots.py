"""Small plots as SVG, drawn here: no script, no style attribute, and a sentence for those who cannot see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import groupby

from markupsafe import Markup

from qanat.control.nouns import TrafficPoint

WIDTH, HEIGHT, TOP = 320, 72, 6
FIGURE = Markup(
    '<figure class="plot"><figcaption>{title} <b>{newest}</b> {unit}</figcaption>'
    '<svg viewBox="0 0 320 72" role="img" aria-label="{text}" preserveAspectRatio="none">{lines}</svg>'
    '<p class="scale" aria-hidden="true"><span>{span} ago</span><span>most {most}</span><span>now</span></p></figure>'
)
"""`Markup.format` escapes what is put in."""
LINE = Markup('<polygon points="{first},72 {corners} {last},72"/><polyline points="{corners}"/>')
Value = Callable[[TrafficPoint], float | None]


def plot(
    points: Sequence[TrafficPoint],
    value: Value,
    title: str,
    unit: str,
    until: datetime,
    steps: int,
    step: timedelta,
    idle: float | None = 0.0,
) -> Markup:
    """One quantity over the last `steps` steps of time. `idle` is its value without traffic; None leaves a gap."""
    by_time = {point.time: value(point) for point in points}
    start = until - steps * step
    values = [by_time.get(start + number * step, idle) for number in range(steps)]
    known = [found for found in values if found is not None]
    most = max([*known, 0.0])
    newest = "–" if values[-1] is None else f"{values[-1]:,.4g}"
    return FIGURE.format(
        title=title, newest=newest, unit=unit, lines=Markup("").join(_lines(values, most or 1.0)), most=f"{most:,.4g}",
        text=f"{title}: now {newest} {unit}, at most {most:,.4g} {unit}", span=_words(steps * step),
    )  # fmt: skip


def _lines(values: Sequence[float | None], most: float) -> Iterable[Markup]:
    """A line for each run of values that are known."""
    for known, run in groupby(enumerate(values), key=lambda pair: pair[1] is not None):
        if known:
            steps = list(run)
            across = [number * WIDTH / max(len(values) - 1, 1) for number, _ in steps]
            up = [HEIGHT - (found or 0.0) / most * (HEIGHT - TOP) for _, found in steps]
            if len(across) == 1:  # a single step is a dash: one corner would not be seen
                across, up = [max(0.0, across[0] - 2), min(float(WIDTH), across[0] + 2)], up * 2
            corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, up, strict=True))
            yield LINE.format(first=f"{across[0]:.1f}", last=f"{across[-1]:.1f}", corners=corners)


def _words(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:.0f} min"
