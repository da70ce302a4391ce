"""Charts, drawn on the server: bars in SVG, coloured by the style sheet, with what each says as its title."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from .words import plain

_HEIGHT = 100.0


@dataclass(frozen=True)
class Bar:
    """One bar: what it is of, and its parts from the bottom up, each with a class of the style sheet."""

    label: str
    parts: tuple[tuple[str, float], ...]


def bars(series: Sequence[Bar], label: str) -> Markup:
    """Bars beside each other, to one scale."""
    most = max((sum(value for _, value in bar.parts) for bar in series), default=0.0) or 1.0
    width = 10.0
    drawn: list[Markup] = []
    for place, bar in enumerate(series):
        rests = _HEIGHT
        shapes: list[Markup] = []
        for kind, value in bar.parts:
            tall = _HEIGHT * value / most
            if tall <= 0:
                continue
            rests -= tall
            shapes.append(
                Markup('<rect class="bar {}" x="{:.1f}" y="{:.2f}" width="{:.1f}" height="{:.2f}"/>').format(
                    kind, place * width + 0.5, rests, width - 1, tall
                )
            )
        said = ", ".join(f"{value:,.0f} {kind}" for kind, value in bar.parts if value) or "nothing"
        shapes.append(
            Markup('<rect class="hit" x="{:.1f}" y="0" width="{:.1f}" height="{:.0f}"/>').format(
                place * width, width, _HEIGHT
            )
        )
        title = Markup("<title>{}: {}</title>").format(plain(bar.label), said)
        drawn.append(Markup("<g>{}{}</g>").format(title, Markup("").join(shapes)))
    return Markup(
        '<svg class="bars" viewBox="0 0 {:.0f} {:.0f}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(max(1, len(series)) * width, _HEIGHT, plain(label), Markup("").join(drawn))
