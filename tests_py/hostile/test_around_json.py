"""JSON of any shape: written and read, or refused with the one error that callers expect."""

from __future__ import annotations

import decimal
import json
import sys
import typing as t
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gendurable_py import InvalidArgument
from gendurable_py.machine.codec import StateCodec, dumps, loads


class Rude:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def circular() -> list[t.Any]:
    made: list[t.Any] = []
    made.append({"again": made})
    return made


def nested(levels: int) -> t.Any:
    made: t.Any = 1
    for level in range(levels):
        made = [made] if level % 2 else {"a": made}
    return made


def failing() -> t.Iterator[int]:
    yield 1
    raise KeyError("on the way")


@pytest.mark.parametrize(
    "value",
    [
        Rude(), {"a": Rude()}, {Rude(): 1}, circular(), failing(), "\ud800", {"\ud800": 1}, "a\x00", {"a\x00": 1},
        [{"a": [{"b": "\x00"}]}], float("nan"), [float("-inf")], {"a": decimal.Decimal("NaN"), "b": float("nan")},
        nested(100_000), {1: 1, "1": 2}, b"\xff", object(), int, ValueError("x"), {"a": float("nan"), "b": 10**5000},
        [nested(300), float("nan")], [nested(300), "\ud800"],
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_json_cannot_hold_is_refused_and_nothing_else_is_raised(value: object) -> None:
    with pytest.raises(InvalidArgument, match="cannot be encoded"):
        dumps(value)


@pytest.mark.parametrize(
    "value",
    [nested(199), nested(300), 10**5000, [10**5000, nested(300)], "\u2028NaN \\u0000", {"a": {"NaN": 1}},
     -(10**130_000)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_json_can_hold_comes_back(value: t.Any) -> None:
    limit = sys.get_int_max_str_digits()
    try:
        text = dumps(value)
    except InvalidArgument:
        assert value[0] == 10**5000, "deep and long at once"
        return
    assert loads(text.decode()) == value
    assert sys.get_int_max_str_digits() == limit, "a setting of the whole process is not ours"


@pytest.mark.parametrize(
    "text",
    ["[" * 300 + "]" * 300, "[" * 100_000 + "]" * 100_000, "1" * 5000, "-" + "9" * 131_072, "1e400", "1e-400",
     "1" * 400 + ".5", "0." + "0" * 16_000 + "1", '{"a": ' * 900 + "1" + "}" * 900, '"\\ud83d\\ude00"'],
    ids=lambda text: text[:10],
)  # fmt: skip
def test_reading_what_jsonb_can_hold_gives_a_value_or_one_kind_of_error(text: str) -> None:
    for read in (loads, StateCodec(None).decode):
        try:
            assert isinstance(read(text), (int, float, list, dict, str))
        except InvalidArgument:
            assert text.startswith("[" * 100_000), "the only one that Python cannot hold"
    assert loads("[" * 300 + "]" * 300) is not None
    assert loads("1" * 5000) == int(decimal.Decimal("1" * 5000))


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_plain_json_comes_back(value: t.Any) -> None:
    assert loads(dumps(value).decode()) == value
    assert json.loads(dumps(value)) == value


def test_a_whole_number_may_have_a_fraction_of_nothing(conn: psycopg.Connection[Any]) -> None:
    """Some clients write 1.0; in an id it failed the whole batch, elsewhere it raised what no reference names."""
    objects = '[{"fsm": "m", "version": 2.0, "priority": -1.0, "max_attempts": 3.0}, {"fsm": "m"}, {"fsm": "m"}]'
    made = conn.execute("select id from gd_insert_many(%s)", (objects,)).fetchall()
    conn.execute("""select gd_register('m', 1, 'start', 'default', '{"max_attempts": 3.0}')""")
    claims = conn.execute("select id, claim_no from gd_claim_many('w', '{\"default\": 3.0}')").fetchall()
    assert sorted(id for id, _ in claims) == sorted(id for (id,) in made)
    (a, a_no), (b, b_no), (c, c_no) = claims
    outcomes = (
        f'[{{"id": {a}.0, "claim_no": {a_no}.0, "kind": "next", "step": "b", "priority": 7.0, "consume": [1.0]}},'
        f' {{"id": {b}.5, "claim_no": {b_no}, "kind": "done"}}, {{"id": {c}, "claim_no": {c_no}, "kind": "done"}}]'
    )
    answers = conn.execute("select result, detail ->> 'sqlstate' from gd_commit('w', %s)", (outcomes,)).fetchall()
    assert answers == [("ok", None), ("rejected", "GD501"), ("ok", None)]
    assert conn.execute("select priority from gd_instances where id = %s", (a,)).fetchone() == (7,)
    beats = conn.execute("select id from gd_heartbeat('w', %s)", (f"[[{b}.0, {b_no}.0]]",)).fetchall()
    assert beats == []
    with pytest.raises(psycopg.DatabaseError) as refused:
        conn.execute("select gd_heartbeat('w', %s)", (f"[[{b}.5, {b_no}]]",))
    assert refused.value.sqlstate == "GD501"
    with pytest.raises(psycopg.DatabaseError) as refused:
        conn.execute('select gd_insert_many(\'[{"fsm": "m", "weight": 1e-400}]\')')
    assert refused.value.sqlstate == "GD501"
