"""Values that nobody would send by accident, for each type of argument that a public function has.

A value is what goes over the wire: bytes or None. Texts go in binary form, so that a NUL or a broken encoding reaches
the server; everything else is the literal of a cast.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

NAMES = [
    "nightly",
    "",
    "m",
    "default",
    "w",
    "old",
    "lane",
    "paused",
    "k",
    "wide",
    "unique awaiting",
    "yes",
    "client",
    "x" * 10_000,
]
ODD = [
    "it's", '"', "'; drop schema gendurable cascade; --", "$$", "%s%n", "\\", "\n\t\r", "\x01\x1f\x7f", "\u202eabc",
    "é", "e\u0301", "\U0001f4a5", "\ufeff", "\uffff", "null", "NULL", "{}", "*", "gendurable", "../..", "k:1", ":",
    " ",
]  # fmt: skip
BROKEN = [b"a\x00b", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xf8\x88\x80\x80\x80", b"abc\xe2\x82"]

words = st.one_of(st.sampled_from(NAMES + ODD), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
texts = st.one_of(
    words.map(str.encode),
    st.sampled_from(BROKEN),
    st.binary(max_size=20),
)

INTS = ["0", "1", "2", "-1", "20", "1000", "2147483647", "-2147483648", "2147483648", "1e3", "", "x", "0x10", "1.5"]
BIGINTS = [*INTS, "9223372036854775807", "-9223372036854775808", "9223372036854775808"]
FLOATS = ["0", "1", "-1", "0.5", "nan", "infinity", "-infinity", "1e308", "4.9e-324", "1e400", "-0", "x", ""]
TIMES = [
    "now", "epoch", "infinity", "-infinity", "4713-01-01 BC", "294276-12-31 23:59:59.999999+00", "294277-01-01",
    "yesterday", "2026-02-30", "2026-01-01 00:00:00+15:59", "2100-01-01", "0001-01-01", "", "x",
]  # fmt: skip
INTERVALS = [
    "0", "1 ms", "1 hour", "-1 us", "-1 hour", "178000000 years", "-178000000 years", "2147483647 months",
    "2147483647 days", "9223372036854.775807 s", "-9223372036854.775808 s", "1e300 s", "1 mon -30 days", "P1Y",
    "infinity", "-infinity", "", "x",
]  # fmt: skip
FILTERS = [
    "id", "fsm", "version", "status", "partition_prefix", "rate_limit", "parent_id", "error", "meta", "inserted_before",
    "finished_after", "due_before", "stuck_for_ms", "attributes",
]  # fmt: skip
ID_ARRAYS = [
    "{}", "{NULL}", "{0}", "{-1}", "{1,1}", "{{1,2},{3,4}}", "[5:6]={1,2}", "{9223372036854775807}", "{1.5}", "{x}",
]  # fmt: skip
ARRAYS = [
    "{}", "{NULL}", "{runnable}", "{executing,runnable}", "{done,done}", "{default,lane}",
    "{{runnable,done},{failed,done}}", "[5:6]={runnable,done}", '{""}', '{"a,b","c\\"d"}', "{{NULL}}", "{a,{b}}", "{",
    "[0:0]={default}", "{" + ",".join(["q"] * 500) + "}",
]  # fmt: skip
FUNCTIONS = [
    "0",
    "999999999",
    "4294967295",
    "-",
    "gd_no_such(jsonb)",
    "gd_find(text)",
    "pg_catalog.jsonb_array_length(jsonb)",
]
ROLES = ["0", "10", "999999999", "4294967295", "gd_no_such_role", "-"]
TABLES = [
    "0",
    "1259",
    "999999999",
    "4294967295",
    "-",
    "gendurable.instance",
    "gd_instances",
    "pg_class",
    "no_such_table",
]
BOOLEANS = ["t", "f", "", "x"]

RAW_JSON = [
    "", "{", "nul", '"\\u0000"', '{"a": "\\u0000"}', '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', "1e400",
    "-1e-400", "9" * 400, "1e131071", "1e999999", "NaN", "Infinity", "[" * 10_000 + "]" * 10_000,
    '{"a":' * 5_000 + "1" + "}" * 5_000, "[1,]", "\x01", '"\x01"', '{"a":1,"a":2}', "[" + "null," * 3_000 + "null]",
    '"' + "x" * 100_000 + '"',
]  # fmt: skip


JOURNALS: list[Any] = [
    {"at": 0, "add": [{"k": "start"}]}, {"at": 0.0, "add": [{"k": "start"}], "forget": True},
    {"at": 0, "add": [{"k": "step", "name": "", "n": -1, "at": 1e300, "v": "{"}, {"k": "end", "failed": 2**63}]},
    {"at": 0, "add": [{"k": "step", "name": ["x"], "n": "1", "at": "yesterday", "v": {}, "e": 7, "error": [None]}]},
    {"at": 1, "add": [{"k": "late"}]}, {"at": 0, "add": []}, {"at": 0, "add": [{"k": None}]},
    {"at": 2**31, "add": [{}]},
]  # fmt: skip

Claim = tuple[int, int]


def jsons(ids: Sequence[int], claims: Sequence[Claim]) -> Callable[[str], st.SearchStrategy[bytes]]:
    """JSON for an argument of a name: mostly of about the shape that it wants, with one thing or another wrong."""
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.sampled_from([0, 1, -1, 2**31, 2**63, -(2**63), 2**70, 10**30, 1.5, 1e-9, -0.0, 1e300]),
        st.integers(-100, 100),
        words,
    )
    anything = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
        max_leaves=12,
    )
    known = st.sampled_from(claims).map(list)
    pairs = st.one_of(
        known, known, known, st.tuples(st.sampled_from(ids), scalars).map(list), st.lists(scalars, max_size=3)
    )
    objects = st.dictionaries(words, anything, max_size=3)
    state = st.one_of(objects, objects, objects, anything)
    number = st.one_of(st.integers(0, 5000), st.floats(0, 1e6), st.sampled_from([0, 2**31, 1e15, 1e300]), scalars)
    small = st.one_of(st.integers(1, 5), st.integers(-5, 5), scalars)
    scopes = st.sampled_from([[], ["done"], ["runnable", "executing"], ["x"], [None], "runnable"])
    limits = st.just("api") | words
    fields = {
        "fsm": words, "state": state, "step": words, "version": small, "queue": words, "priority": small,
        "partition_key": words, "unique_key": words, "unique_scope": scopes, "meta": state, "weight": number,
        "attributes": state,
        "eligible_at": st.one_of(st.sampled_from(TIMES), scalars), "delay_ms": number, "rate_limit": limits,
        "max_attempts": small, "expires_at": st.one_of(st.sampled_from(TIMES), scalars), "expires_ms": number,
    }  # fmt: skip
    instance = some_of(fields, always={"fsm": st.just("m")})
    children = st.one_of(st.lists(instance, max_size=3), st.lists(st.just({"fsm": "m"}), max_size=3), anything)
    signals = st.lists(st.integers(1, 9), max_size=3)
    ids_of = st.fixed_dictionaries({"id": st.sampled_from(ids) | scalars})
    targets = ids_of | st.fixed_dictionaries({"unique_key": words})
    send = st.tuples(targets, some_of({"payload": anything, "dedup_key": words}, always={"name": words})).map(
        lambda pair: pair[0] | pair[1]
    )
    base = some_of({"state": state, "x": scalars}, always={"step": words})
    # cheap to draw: the shapes that are refused have their table in tests_sql/198_journal.sql
    journal = st.sampled_from(JOURNALS)
    outcome_fields = {
        "kind": st.sampled_from(["next", "replay", "await", "schedule_childs", "done", "stop", "error", "", None]),
        "step": words, "state": state, "delay_ms": number, "partition_key": st.none() | words, "rate_limit": limits,
        "weight": number, "priority": small, "queue": words, "keep": st.booleans() | scalars, "timeout_ms": number,
        "signals": words | st.lists(words, max_size=3), "childs": children, "result": anything,
        "reason": words | scalars, "error": words | scalars, "consume": signals | st.lists(scalars, max_size=3),
        "close_ms": number, "insert": children, "signal": st.lists(send, max_size=3) | anything, "at": base | anything,
        "traceback": words | scalars, "attributes": state, "journal": journal | scalars,
    }  # fmt: skip
    outbox = ["insert", "signal", "at"]
    #: a kind with its own keys, so that it gets further than the first check
    kinds = {
        "next": ["step", "state", "delay_ms", "partition_key", "priority", "queue", "keep", "consume", "weight",
                 "rate_limit", "close_ms", "attributes", "journal", *outbox],
        "replay": ["state", "delay_ms", "error", "consume", "attributes", "journal", "close_ms", "traceback", *outbox],
        "await": ["signals", "step", "state", "timeout_ms", "consume", "attributes", "journal", *outbox],
        "schedule_childs": ["step", "childs", "state", "consume", "attributes", "journal", *outbox],
        "done": ["result", "consume", "attributes", "journal", *outbox],
        "stop": ["reason", "consume", "attributes", "journal", "traceback", *outbox],
        "error": ["error", "delay_ms", "consume", "attributes", "journal", "close_ms", "traceback"],
    }  # fmt: skip
    needed = {"next": "step", "await": "signals", "schedule_childs": "childs", "stop": "reason", "error": "error"}

    def of_kind(kind: str) -> st.SearchStrategy[dict[str, Any]]:
        always = {"kind": st.just(kind)}
        if kind in needed:
            always[needed[kind]] = outcome_fields[needed[kind]]
        if kind == "schedule_childs":
            always["step"] = words
        return some_of({name: outcome_fields[name] for name in kinds[kind]}, always=always)

    outcome = st.one_of(*(of_kind(kind) for kind in kinds), some_of(outcome_fields, always={}))
    addressed = st.tuples(outcome, pairs).map(
        lambda pair: pair[0] | dict(zip(("id", "claim_no"), pair[1], strict=False))
    )
    shapes: dict[str, st.SearchStrategy[Any]] = {
        "p_outcomes": st.lists(addressed, min_size=1, max_size=4),
        "p_outcome": addressed,
        "p_claims": st.lists(pairs, max_size=4),
        "p_instances": st.lists(instance, max_size=4),
        "p_queues": st.dictionaries(words, st.sampled_from([0, 1, 5, -1, 2**31, 1.5, None]), max_size=4),
        "p_options": some_of({"max_attempts": scalars, "history": scalars, "limit": scalars, "x": scalars}, always={}),
        "p_filter": some_of(dict.fromkeys(FILTERS, st.one_of(scalars, st.lists(scalars, max_size=2))), always={}),
    }

    def of(name: str) -> st.SearchStrategy[bytes]:
        any_shape = st.one_of(anything, *shapes.values())
        shaped = st.one_of(*[shapes.get(name, anything)] * 4, any_shape)
        text = shaped.map(lambda value: json.dumps(value).encode())
        return st.one_of(text, text, text, text, st.sampled_from(RAW_JSON).map(str.encode))

    return of


def some_of(
    fields: dict[str, st.SearchStrategy[Any]], *, always: dict[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(always, optional={k: v for k, v in fields.items() if k not in always})


#: (name, type, whether it has a default)
Argument = tuple[str, str, bool]


def values(
    arguments: Sequence[Argument], ids: Sequence[int], claims: Sequence[Claim]
) -> st.SearchStrategy[tuple[bytes | None, ...]]:
    """Arguments of a call that would succeed, but for a few of them, or all, that are hostile or null."""
    json_values = jsons(ids, claims)
    claim = {"id": claims[0][0], "claim_no": claims[0][1], "kind": "done"}
    good = {
        "p_instances": [{"fsm": "m"}], "p_outcomes": [claim], "p_outcome": claim, "p_claims": [claims[0]],
        "p_queues": {"default": 1},
    }  # fmt: skip
    by_name = {"p_cron": "0 3 * * *", "p_profile": "client", "p_bucket": "api", "p_when": "true", "p_payload": "{}"}
    by_type = {
        "text": "m", "integer": "1", "bigint": str(ids[0]), "double precision": "1", "interval": "1 s",
        "boolean": "t", "timestamp with time zone": "now", "text[]": "{default}", "bigint[]": f"{{{ids[0]}}}",
        "regrole": "10", "jsonb": "{}", "regclass": "strangers_table",
    }  # fmt: skip

    def good_one(argument: Argument) -> bytes | None:
        name, type_name, optional = argument
        if name in good:
            return json.dumps(good[name]).encode()
        if name in by_name:
            return by_name[name].encode()
        return None if optional else by_type[type_name].encode()

    def hostile(name: str, type_name: str) -> st.SearchStrategy[bytes | None]:
        literals = {
            "integer": INTS,
            "bigint": [*BIGINTS, *(str(id) for id in ids), *(str(id) for id in ids)],
            "double precision": FLOATS,
            "timestamp with time zone": TIMES,
            "interval": INTERVALS,
            "text[]": ARRAYS,
            "bigint[]": [*ID_ARRAYS, "{" + ",".join(str(id) for id in ids) + "}"],
            "regrole": ROLES,
            "regclass": TABLES,
            "regprocedure": FUNCTIONS,
            "boolean": BOOLEANS,
        }
        if type_name == "text":
            strategy: st.SearchStrategy[bytes] = texts
        elif type_name == "jsonb":
            strategy = json_values(name)
        else:
            strategy = st.sampled_from(literals[type_name]).map(str.encode)
        return st.one_of(strategy, strategy, strategy, strategy, st.none())

    positions = range(len(arguments))
    if not arguments:
        return st.just(())
    which = st.one_of(*[st.sets(st.sampled_from(positions), min_size=1, max_size=2)] * 4, st.just(set(positions)))
    base = [good_one(argument) for argument in arguments]
    return st.tuples(which, *(hostile(*argument[:2]) for argument in arguments)).map(
        lambda drawn: tuple(drawn[n + 1] if n in drawn[0] else base[n] for n in positions)
    )
