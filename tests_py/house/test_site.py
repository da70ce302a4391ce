"""The site of the documentation: it is built without a warning, stands by itself, and finds what it is asked for."""

from __future__ import annotations

import html
import json
import re
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import psycopg
import pytest
from conftest import Database
from py_mini_racer import MiniRacer
from support.pages import ROOT, pages
from support.tools import load

import gendurable_py as gd

# In a browser: what loads, or leads elsewhere.
LOADED = {"script": "src", "link": "href", "img": "src", "source": "src", "iframe": "src"}
BASE = "https://site.example/"


documentation, cli_reference, written = map(load, ("documentation", "cli_reference", "written"))


@dataclass
class Page(HTMLParser):
    """What a page has: anchors, links, what it loads, and its paragraphs as text."""

    url: str
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    paragraphs: list[str] = field(default_factory=list)
    _inside: str | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(urljoin(self.url, given["href"]))
        elif tag in LOADED and LOADED[tag] in given and given.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(urljoin(self.url, given[LOADED[tag]]))
        if tag == "p":
            self.paragraphs.append("")
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = None if tag == "p" else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("site")
    done = documentation.build(folder)
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout, done.stdout
    return folder


@pytest.fixture(scope="module")
def built(site: Path) -> dict[str, Page]:
    found = {}
    for path in sorted(site.rglob("*.html")):
        page = Page(BASE + path.relative_to(site).as_posix().removesuffix("index.html"))
        page.feed(path.read_text("utf-8"))
        found[page.url] = page
    return found


def test_links_and_anchors_of_the_site(site: Path, built: dict[str, Page]) -> None:
    wrong = []
    for page in built.values():
        for link in page.links:
            target, anchor = urldefrag(link)
            if not target.startswith(BASE):
                continue
            other = built.get(target)
            there = other is not None or (site / unquote(target.removeprefix(BASE))).is_file()
            if not there or (anchor and (other is None or unquote(anchor) not in other.anchors)):
                wrong.append(f"{page.url}: {link}")
    assert wrong == []
    assert sum(len(page.links) for page in built.values()) > 1000


def test_it_loads_nothing_from_elsewhere(site: Path, built: dict[str, Page]) -> None:
    for page in built.values():
        assert page.loads, page.url
        for link in page.loads:
            assert link.startswith(BASE), f"{page.url}: {link}"
            assert (site / unquote(urldefrag(link)[0].removeprefix(BASE)).partition("?")[0]).exists(), link
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?https?:", path.read_text("utf-8")), path


def test_markdown_is_read_as_in_the_repository(built: dict[str, Page]) -> None:
    # A list or a table without an empty line before it is one on GitHub, and runs on in the paragraph here.
    for page in built.values():
        for text in page.paragraphs:
            assert not re.search(r"\n(?:[-*] |\d+\. |\||```|#+ )", text), f"{page.url}: {text}"
            assert "](" not in text, f"{page.url}: {text}"


def test_every_page_has_its_place(site: Path) -> None:
    places = {documentation.place_of(path.relative_to(ROOT).as_posix()) for path in pages()}
    for place in places - {"index.md"}:
        folder = place.removesuffix(".md").removesuffix("README").removesuffix("index")
        assert (site / folder / "index.html").exists(), place
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(([^)#]+)", index))
    top = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert top - linked == set()


@pytest.mark.parametrize(
    ("text", "nav", "said"),
    [
        ("[there](other.md#part)", "[index.md, other.md]", None),
        ("[there](other.md#part)", "[index.md]", 'not included in the "nav"'),
        ("[not](missing.md)", "[index.md, other.md]", "missing.md"),
        ("[nor](other.md#nothing)", "[index.md, other.md]", "#nothing"),
        ("[away](/other.md)", "[index.md, other.md]", "/other.md"),
        ("there", "[index.md, other.md, third.md]", "third.md"),
    ],
)
def test_what_keeps_the_site_from_being_built(tmp_path: Path, text: str, nav: str, said: str | None) -> None:
    docs = tmp_path / "build" / "docs"
    docs.mkdir(parents=True)
    (docs / "index.md").write_text(f"# One\n\n{text}\n")
    (docs / "other.md").write_text("# Other\n\n## Part\n")
    settings = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[0]
    # No handler of the references: it takes its time, and there is nothing for it.
    settings = re.sub(r"  - mkdocstrings:\n(?:    .*\n)+", "", settings)
    (tmp_path / "mkdocs.yml").write_text(f"{settings}\nnav: {nav}\n")
    done = subprocess.run(
        documentation.mkdocs("build", "--strict"),
        cwd=tmp_path,
        env=documentation.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == (said is None), done.stderr
    assert said is None or said in done.stderr


def test_a_link_out_of_the_documentation_has_a_page(tmp_path: Path) -> None:
    wanted: list[str] = []
    text = "[a](../examples/transfer.py) [b](sql.md#x) [c](../CHANGELOG.md) [d](#x)\n\n```\n[e](nowhere)\n```\n"
    assert documentation.rewrite(text, "docs/concepts.md", wanted.append) == text.replace(
        "../examples/transfer.py", "source/examples/transfer.py.md"
    ).replace("../CHANGELOG.md", "changelog.md")
    assert wanted == ["examples/transfer.py"]
    for link in ("../../outside.md", "../examples/no.py"):
        with pytest.raises(documentation.Mistake, match="leads nowhere"):
            documentation.rewrite(f"[a]({link})", "docs/concepts.md", wanted.append)


# -- searching, as the site's own script does it


class Search:
    """The worker of the search, in V8, with the index that was built."""

    def __init__(self, site: Path) -> None:
        [script] = (site / "assets" / "javascripts" / "workers").glob("search.*.js")
        index = (site / "search" / "search_index.json").read_text("utf-8")
        self._engine = MiniRacer()
        self._engine.eval(
            "var self = globalThis, console = {warn: function () {}}, heard, answer;"
            "function addEventListener(name, listener) { heard = listener; }"
            "function postMessage(message) { answer = message; }"
        )
        self._engine.eval(script.read_text("utf-8"))
        self._ask({"type": 0, "data": {**json.loads(index), "options": {"suggest": False}}})

    def _ask(self, message: object) -> dict[str, object]:
        self._engine.eval(f"answer = null; heard({{data: {json.dumps(message)}}}); 0")
        answer: dict[str, object] = json.loads(str(self._engine.eval("JSON.stringify(answer)")))
        assert answer, message
        return answer

    def pages(self, words: str) -> list[str]:
        found = self._ask({"type": 2, "data": words})["data"]
        assert isinstance(found, dict)
        return [item["location"] for items in found["items"] for item in items]


@pytest.fixture(scope="module")
def search(site: Path) -> Search:
    return Search(site)


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("gd_claim_many", "sql/#gd_claim_many"),
        ("partition key", "concepts/#partition-keys"),
        ("insert-many", "cli-reference/#insert-many"),
        ("insert_many", "python-reference/#gendurable_py.insert_many"),
        ("customer answers repair timeout", "tutorial/05-timeouts"),
        ("password role database workshop", "quick-start/#a-role-and-a-database"),
        ("exactly once outbox", "exactly-once/#the-outbox"),
        ("crash cap", "glossary/"),
    ],
)
def test_the_search_finds(search: Search, words: str, page: str) -> None:
    assert any(one.startswith(page) for one in search.pages(words)[:30])


def test_the_search_finds_nothing_where_there_is_nothing(search: Search) -> None:
    assert search.pages("+xylophone") == []


# -- the references


def test_the_reference_of_python_has_every_name(built: dict[str, Page]) -> None:
    text = (ROOT / "docs" / "python-reference.md").read_text("utf-8")
    named = re.findall(r"^::: gendurable_py\.(?:install\.|flow\.)?(\w+)$", text, re.MULTILINE)
    assert set(gd.__all__) <= set(named)
    assert len(named) == len(set(named))
    anchors = built[BASE + "python-reference/"].anchors
    for name in gd.__all__:
        homes = ("", "install.", "flow.")  # where a module and what is in it have one name
        assert {f"gendurable_py.{home}{name}" for home in homes} & anchors, name


def test_calls_are_shown_as_they_are_called(site: Path) -> None:
    text = html.unescape(re.sub(r"<[^>]+>", "", (site / "python-reference" / "index.html").read_text("utf-8")))
    assert re.search(r"find\(conn: Connection \| AsyncConnection, unique_key: str\)\s*-> int \| None", text)
    assert re.search(r"install\(conn: Connection \| AsyncConnection\)\s*-> str", text)
    assert "Statement[" not in text
    assert "Script[" not in text


def test_the_reference_of_the_command_line_is_up_to_date() -> None:
    assert written.difference(cli_reference.PAGE, cli_reference.page()) == ""


def test_a_command_that_differs_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(cli_reference.page().replace("`-t, --timeout TIME`", "`--timeout TIME`"))
    monkeypatch.setattr(cli_reference, "PAGE", page)
    assert "+| `-t, --timeout TIME`" in written.difference(cli_reference.PAGE, cli_reference.page())


def test_the_diagram_has_every_status(db: Database) -> None:
    drawn = (ROOT / "docs" / "states.svg").read_text("utf-8")
    with db.connect() as conn:
        assert isinstance(conn, psycopg.Connection)
        statuses = conn.execute("select unnest(enum_range(null::gendurable.status))::text").fetchall()
    assert statuses
    assert {name for (name,) in statuses} == set(re.findall(r'class="name"[^>]*>(\w+)<', drawn))
