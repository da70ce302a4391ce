"""A terminal's screen as a picture: an SVG with its texts, and what of it stays the same from run to run."""

from __future__ import annotations

import re
from html import escape, unescape
from pathlib import Path
from typing import Any

import pyte

_COLOURS = {
    "default": "#d8d8d8",
    "black": "#555555",
    "red": "#f07178",
    "green": "#a5d46a",
    "brown": "#e8c468",
    "blue": "#82aaff",
    "magenta": "#c792ea",
    "cyan": "#7fd1e0",
    "white": "#ffffff",
}
_BACK = "#16181d"
_FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
_WIDE, _HIGH, _EDGE = 8.4, 19, 14


def picture(screen: pyte.Screen, title: str) -> str:
    """The screen as SVG, up to its last line with a text."""
    rows = list(range(screen.lines))
    while rows and not screen.display[rows[-1]].strip():
        rows.pop()
    width, height = screen.columns * _WIDE + 2 * _EDGE, len(rows) * _HIGH + 2 * _EDGE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{_BACK}"/>',
        f'<g font-family="{_FONT}" font-size="14" xml:space="preserve">',
    ]
    for row in rows:
        parts += _line(screen, row)
    return "\n".join([*parts, "</g>", "</svg>", ""])


def _line(screen: pyte.Screen, row: int) -> list[str]:
    made: list[str] = []
    start = 0
    while start < screen.columns:
        cell = screen.buffer[row][start]
        end = start
        while end < screen.columns and _look(screen.buffer[row][end]) == _look(cell):
            end += 1
        text = "".join(screen.buffer[row][column].data for column in range(start, end))
        x, y = _EDGE + start * _WIDE, _EDGE + (row + 0.75) * _HIGH
        front, back = _COLOURS.get(cell.fg, _COLOURS["default"]), _BACK
        if cell.reverse:
            front, back = back, front
            made.append(
                f'<rect x="{x:.1f}" y="{_EDGE + row * _HIGH}" width="{(end - start) * _WIDE:.1f}" height="{_HIGH}" '
                f'fill="{back}"/>'
            )
        if text.strip():
            weight = ' font-weight="bold"' if cell.bold else ""
            made.append(
                f'<text x="{x:.1f}" y="{y:.1f}" fill="{front}"{weight} textLength="{(end - start) * _WIDE:.1f}">'
                f"{escape(text)}</text>"
            )
        start = end
    return made


def _look(cell: Any) -> tuple[object, ...]:
    return cell.fg, cell.bold, cell.reverse


def shape(svg: str) -> list[str]:
    """The texts of a picture, a line each, with neither times nor amounts nor how wide they make a column."""
    lines: dict[str, list[str]] = {}
    for y, text in re.findall(r'<text [^>]*?y="([\d.]+)"[^>]*>(.*?)</text>', svg):
        lines.setdefault(y, []).append(unescape(text))
    return [_plain(" ".join(texts)) for _, texts in sorted(lines.items(), key=lambda one: float(one[0]))]


def _plain(text: str) -> str:
    text = re.sub(r"\d+-\d+-\d+ [\d:]+|\d+:\d+:\d+", "TIME", text)
    text = re.sub(r"\b[\d.,]+ (s|min|h|d)\b", "SPAN", text)
    text = re.sub(r"\d[\d.,]*", "0", text)
    return re.sub(r"[ \u2500]+", " ", text).strip()


def keep_or_compare(path: Path, svg: str, write: bool) -> None:
    """Write a picture if that was asked for; else what is there has to have its shape."""
    if write:
        path.parent.mkdir(exist_ok=True)
        path.write_text(svg, "utf-8")
    assert path.exists(), f"{path} is not there: run this test with GENDURABLE_WRITE_SCREENSHOTS=1"
    assert shape(path.read_text("utf-8")) == shape(svg), "run this test with GENDURABLE_WRITE_SCREENSHOTS=1, and look"
