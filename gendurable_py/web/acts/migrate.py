"""Moving instances from one version of a machine to another: a dry run shows what would become of them, then the same
form moves them."""

from __future__ import annotations

from typing import cast

from starlette.datastructures import QueryParams

from ... import calls
from ...calls.deploying import Migration
from ..look import Look, Page
from ..query import needed, query
from ..source import Conn
from ..words import Unreadable, mapping, whole
from .forms import Act, Field, Outcome, Plan, Values, checked, given, required

_SHOWN = 50
_AT_ONCE = 1000


async def plan(look: Look) -> Plan:
    name = needed(look.params, "name")
    versions = sorted({one.version for one in await calls.machines(look.conn, name)})
    known = tuple(map(str, versions))
    fields = (
        Field("start", "From version", value=look.params.get("version", known[0] if known else ""), needed=True),
        Field("to", "To version", value=known[-1] if known else "", needed=True),
        Field("steps", "Steps that have another name", "area", help='JSON: {"old": "new"}. Empty: none.'),
        Field("state", "Function for the state", help="Of the database, such as app.upgrade(jsonb). Empty: none."),
        Field("really", "Move them, in place of a dry run", "check"),
    )
    says = (
        f"Up to {_AT_ONCE} instances that do not execute get another version. A dry run changes nothing, and shows "
        "what would become of each.",
    )
    return Plan(f"Migrate {name}", says, "Go", "/machine" + query(name=name), fields, grave=True)


async def do(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    name, really = needed(params, "name"), checked(values, "really")
    steps = mapping(text, "steps") if (text := given(values, "steps")) else {}
    if not all(isinstance(new, str) for new in steps.values()):
        raise Unreadable("steps must be names to names")
    answer: Migration = await calls.migrate(
        conn,
        name,
        whole(required(values, "start"), "the version from"),
        whole(required(values, "to"), "the version to"),
        steps=cast("dict[str, str]", steps),
        state=given(values, "state"),
        limit=_AT_ONCE,
        dry_run=not really,
        after=whole(values.get("after") or "0", "after", 0, 2**63 - 1),
    )
    page = Page(
        "migrated.html",
        f"Migrate {name}",
        {
            "name": name,
            "really": really,
            "moved": answer.instances[:_SHOWN],
            "count": len(answer.instances),
            "results": {
                word: sum(one.result == word for one in answer.instances)
                for word in ("done", "no", "busy", "executing")
            },
            "more": answer.next is not None,
            # a dry run is followed by the same ones
            "fields": {key: values.get(key, "") for key in ("start", "to", "steps", "state")}
            | {"after": str(answer.next or "") if really else values.get("after", "")},
        },
    )
    return Outcome(True, page=page)


ACTS = (Act("migrate", ("gd_migrate",), plan, do),)
