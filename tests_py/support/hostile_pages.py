"""Texts that want to be more than texts, and what a page must be whatever stands on it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import strategies as st

from gendurable_py.web.render import HERE

NASTY = [
    '"><script>alert(1)</script>',
    "<img src=x onerror=alert(1)>",
    "</textarea><b>x",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "javascript:alert(1)",
    "a\u202eb\u2066c",
    "\x01\x1b[31m\x7f",
    "' onmouseover='x",
    "&lt;b&gt;",
    "../..",
    "a/b?c=d&e#f%00",
    "\u200b\ufeff",
    "'; drop schema gendurable cascade; --",
    "%s%n",
    "ü" * 300,
    "</pre></details>",
]
WORDS = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30),
)
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
# What the templates are made of.
TAGS = {
    tag
    for path in [*(HERE / "templates").glob("*.html"), HERE / "charts.py", HERE / "diagram.py", HERE / "render.py"]
    for tag in re.findall(r"<([a-z][a-z0-9]*)\b", path.read_text())
} - {"template"}


class Checker(HTMLParser):
    """Every tag is one of ours, no handler and no style is among the attributes, and all links stay here."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert not name.startswith("on"), attrs
            assert name != "style", attrs
            if name in ("href", "src", "action"):
                assert value is not None
                assert value.startswith(("/", "#")), attrs
                assert not value.startswith("//"), attrs


def check(page: str) -> None:
    Checker().feed(page)
    # fields of forms have to come back as they are
    shown = re.sub(r"(?<= value=)\"[^\"]*\"|(?<=>\n)[^<]*(?=</textarea>)", "", page)
    assert not HIDDEN.search(shown)
