"""Templates: how every value gets into a page.

All templates escape, and every expression goes through `_finish`: no text of the database can close a tag, steer, or
turn around what stands beside it. What comes out marked as HTML was made by a macro of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from . import words
from .charts import bars
from .files import HERE, fingerprint
from .look import Page
from .query import STATUSES, query
from .shown import Shown

_STATUS = frozenset({*STATUSES, "ok", "warning", "problem"})


def _finish(value: object) -> object:
    if value is None:
        return ""
    return value if isinstance(value, Markup) else words.plain(str(value))


def _verbatim(value: object) -> Markup:
    """For values of form fields, which come back: escaped, and else as they are."""
    return Markup(escape("" if value is None else str(value)))


@pass_context
def _url(context: Context, path: str, /, **said: object) -> Markup:
    """A link within the dashboard; everything in it is quoted."""
    return Markup(escape(f"{context['base']}{path}{query(**said)}"))


def _time(value: object) -> Markup:
    """A time for people: how long ago, and exactly when one points at it."""
    if value is None:
        return Markup("")
    found = words.parse_time(value)
    said, when = words.plain(words.ago(value)), words.plain(words.exact(value))
    iso = escape(found.isoformat()) if found else ""
    return Markup('<time datetime="{}" title="{}">{}</time>').format(iso, when, said)


def _status(value: object, paused: object = None) -> Markup:
    text = words.plain(str(value))
    kind = text if text in _STATUS else "other"
    made = Markup('<span class="status {}">{}</span>').format(kind, text.replace("_", " "))
    return made + Markup(' <span class="status paused">paused</span>') if paused else made


class Templates:
    """The templates of the dashboard."""

    def __init__(self, shown: Shown) -> None:
        self._env = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            finalize=_finish,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._env.globals.update(url=_url, bars=bars, fingerprint=fingerprint())
        self._env.filters.update(
            time=_time,
            status=_status,
            verbatim=_verbatim,
            first_line=words.first_line,
            cut=words.cut,
            number=words.number,
            span=words.span,
            size=words.size,
            exact=words.exact,
            ago=words.ago,
            # of what an action answers, which has no look
            seen=lambda text, fsm: shown.text(fsm, text),
        )

    def page(self, page: Page, around: Mapping[str, Any]) -> str:
        """A whole page."""
        return self._env.get_template(page.template).render(self._values(page, around))

    def parts(self, page: Page, around: Mapping[str, Any]) -> dict[str, str]:
        """The parts of a page that change while one looks, by the ids of their elements."""
        template = self._env.get_template(page.template)
        values = self._values(page, around)
        blocks = {**self._env.get_template("base.html").blocks, **template.blocks}
        return {
            name: "".join(block(template.new_context(values)))
            for name, block in blocks.items()
            if name.startswith("live_")
        }

    def _values(self, page: Page, around: Mapping[str, Any]) -> dict[str, Any]:
        values = {**around, "title": page.title, **page.data}
        if "can" in values:  # blocks that are rendered alone have what the others import
            values["parts"] = self._env.get_template("parts.html").make_module(values)
        return values
