"""The diagram of a machine: its steps from left to right in the order in which they follow each other, in SVG."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from markupsafe import Markup

from .words import plain

_MOST = 40
_WIDE, _TALL, _GAP_X, _GAP_Y = 150, 44, 70, 44


@dataclass
class Diagram:
    """Which step followed which, how often."""

    moves: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, step: str, follows: str, count: int = 1) -> None:
        self.moves[step, follows] += count


def draw(diagram: Diagram, failing: Mapping[str, float], known: Iterable[str]) -> Markup | None:
    """The picture; None: nothing is known that could be drawn."""
    moves = Counter(dict(diagram.moves.most_common(4 * _MOST)))
    steps = list(dict.fromkeys([*known, *(step for move in moves for step in move)]))[:_MOST]
    if not moves or not steps:
        return None
    places = _place(steps, [move for move in moves if move[0] != move[1]])
    width = max(x for x, _ in places.values()) + _WIDE + 20
    height = max(y for _, y in places.values()) + _TALL + 50
    parts = [_arrow(places, a, b, count) for (a, b), count in moves.items() if a in places and b in places]
    parts += [_box(step, *places[step], failing.get(step, 0.0)) for step in steps]
    told = "; ".join(f"{a} to {b} {count} times" for (a, b), count in moves.most_common(20))
    return Markup(
        '<svg class="diagram" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z"/></marker></defs>{}</svg>'
    ).format(width, height, width, height, plain(f"Steps: {told}"), Markup("").join(parts))


def _place(steps: list[str], moves: list[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """A column for each step: one behind those that lead to it, but for moves that lead back."""
    order = {step: place for place, step in enumerate(in_order(steps, moves))}
    columns = dict.fromkeys(steps, 0)
    for step in sorted(steps, key=order.__getitem__):
        before = [a for a, b in moves if b == step and a in order and order[a] < order[step]]
        columns[step] = max((columns[a] + 1 for a in before), default=0)
    filled: Counter[int] = Counter()
    places: dict[str, tuple[int, int]] = {}
    for step in sorted(steps, key=order.__getitem__):
        column = columns[step]
        places[step] = (10 + column * (_WIDE + _GAP_X), 30 + filled[column] * (_TALL + _GAP_Y))
        filled[column] += 1
    return places


def in_order(steps: list[str], moves: Iterable[tuple[str, str]]) -> list[str]:
    """The steps in the order in which a walk from those without predecessors meets them."""
    after: dict[str, list[str]] = {}
    led_to: set[str] = set()
    for a, b in moves:
        if a != b:
            after.setdefault(a, []).append(b)
            led_to.add(b)
    left = dict.fromkeys(steps)
    seen: list[str] = []
    waiting = deque([step for step in steps if step not in led_to] or steps[:1])
    while waiting:
        step = waiting.popleft()
        if step in left:
            del left[step]
            seen.append(step)
            waiting += after.get(step, ())
    return [*seen, *left]


def _box(step: str, x: int, y: int, failing: float) -> Markup:
    kind = "end" if step.startswith("(") else "hot" if failing >= 0.1 else "warm" if failing > 0 else "cool"
    said = f"{step}: {_part(failing)} went wrong" if failing else step
    middle, line = x + _WIDE // 2, y + _TALL // 2 + (-2 if failing else 5)
    rate = (
        Markup('<text class="rate" x="{}" y="{}" text-anchor="middle">{} went wrong</text>').format(
            middle, line + 16, _part(failing)
        )
        if failing
        else ""
    )
    return Markup(
        '<g class="box {}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="6"/>'
        '<text x="{}" y="{}" text-anchor="middle">{}</text>{}</g>'
    ).format(kind, plain(said), x, y, _WIDE, _TALL, middle, line, _short(plain(step)), rate)


def _part(failing: float) -> str:
    return f"{failing:.1%}" if failing >= 0.001 else "< 0.1%"


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"


def _arrow(places: Mapping[str, tuple[int, int]], a: str, b: str, count: int) -> Markup:
    (x1, y1), (x2, y2) = places[a], places[b]
    if a == b:
        path = f"M{x1 + _WIDE // 2 - 20},{y1} c-10,-24 50,-24 40,0"
        at = (x1 + _WIDE // 2, y1 - 20)
    elif x2 > x1:
        start, end = (x1 + _WIDE, y1 + _TALL // 2), (x2, y2 + _TALL // 2)
        middle = (start[0] + end[0]) // 2
        path = f"M{start[0]},{start[1]} C{middle},{start[1]} {middle},{end[1]} {end[0]},{end[1]}"
        at = (middle, (start[1] + end[1]) // 2 - 5)
    else:
        start, end = (x1 + _WIDE // 2, y1 + _TALL), (x2 + _WIDE // 2, y2 + _TALL)
        low = max(start[1], end[1]) + 30
        path = f"M{start[0]},{start[1]} C{start[0]},{low} {end[0]},{low} {end[0]},{end[1]}"
        at = ((start[0] + end[0]) // 2, low - 4)
    return Markup(
        '<g class="move"><title>{}</title><path d="{}" marker-end="url(#tip)"/>'
        '<text x="{}" y="{}" text-anchor="middle">{}</text></g>'
    ).format(plain(f"{a} to {b}: {count}"), path, at[0], at[1], f"{count:,}")
