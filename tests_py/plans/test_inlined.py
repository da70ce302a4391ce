"""Helpers in LANGUAGE sql are inlined: one that is not is planned anew in each transaction, wherever it is called."""

from __future__ import annotations

from typing import Any

from support.races import Session, outcome

ROUNDS = 20
CALLED = """
select f.funcname as name, f.calls
from pg_stat_user_functions f
join pg_proc p on p.oid = f.funcid
join pg_language l on l.oid = p.prolang
where l.lanname = 'sql' and p.pronargs > 0 and f.schemaname = 'gendurable' and f.calls >= %s
"""


def work(w: Session, n: int) -> None:
    """Each of the calls that are made all the time, each in a transaction of its own."""
    w.insert(unique_key=f"u{n}", state={"n": n})
    w.insert_many({"partition_key": "k"}, {"partition_key": "k"}, {"delay_ms": 1}, {"unique_key": f"many{n}"})
    w.rows("select * from gd_claim_many('w', '{\"default\": 1, \"other\": 1}')")
    claims = w.claim(20)
    kinds: list[dict[str, Any]] = [
        {"kind": "next", "step": "b"},
        {"kind": "await", "signals": ["go"]},
        {"kind": "done", "result": n},
    ]
    answers = w.commit(*(outcome(claim, **kinds[at % len(kinds)]) for at, claim in enumerate(claims)))
    assert set(answers) == {"ok"}
    for claim in claims:
        w.signal(claim["id"], "go", {"n": n})
    w.rows("select * from gd_heartbeat('w', '[[1, 1]]')")
    w.rows("select * from gd_sleep('w', '{default}')")
    w.rows("select gd_wake('w')")
    w.insert(queue="last")
    [last] = w.claim_soon("last")
    rest = w.claim(20)
    w.commit_one(outcome(last, "done"))
    w.release(*rest)
    w.insert(queue="parents")
    [parent] = w.claim_soon("parents")
    w.commit(outcome(parent, "schedule_childs", step="join", childs=[{"fsm": "m", "queue": "kids"}]))
    w.finish(*w.claim_soon("kids"))
    w.finish(*w.claim_soon("parents"))


def test_no_helper_in_sql_is_called_as_a_function(db: Any) -> None:
    w = Session(db)
    w.rows("select set_config('track_functions', 'all', false)")
    for n in range(ROUNDS):
        work(w, n)
    w.rows("select pg_stat_force_next_flush()")
    w.rows("select")
    assert {row["name"]: row["calls"] for row in w.rows(CALLED, ROUNDS)} == {}
    # and it would be seen
    assert w.rows(CALLED.replace("'sql'", "'plpgsql'"), ROUNDS)
