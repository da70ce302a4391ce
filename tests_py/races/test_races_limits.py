"""Rate limits: two sessions and one bucket, lines that are entered without its lock, limits that change meanwhile."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from support.limits import Start, excess
from support.plans import shared_buffers
from support.races import LOST, Session, ids, no_baton_was_lost, outcome, three
from support.wait import run_in_thread, wait_until

DAY = "1 day"


def limited(session: Session, count: int, bucket: str = "mail", queue: str = "default", **more: Any) -> list[int]:
    return ids(session.insert_many(*[{"rate_limit": bucket, "queue": queue, **more}] * count))


def line(session: Session, queue: str = "default") -> list[int]:
    return ids(
        session.rows(
            """select id from gendurable.instance where queue = %s and bucket_at is not null
            order by priority, bucket_at, id""",
            queue,
        )
    )


def bells(session: Session, queue: str = "default") -> int:
    count: int = session.one("select count(*) from gendurable.instance where id < 0 and queue = %s", queue)
    return count


def ring(session: Session, queue: str = "default") -> None:
    session.conn.execute("update gendurable.instance set eligible_at = now() where id < 0 and queue = %s", (queue,))


def fill(session: Session, tokens: float, bucket: str = "mail") -> None:
    session.conn.execute(
        """update gendurable.bucket b set full_at = clock_timestamp() + (r.burst - %s) * r.us * interval '1 microsecond'
        from gendurable._find_rate_limit(%s) r where b.bucket = %s""",
        (tokens, bucket, bucket),
    )


def level(session: Session, bucket: str = "mail") -> float:
    value: float = session.one(
        "select round(max(level)::numeric, 3)::float8 from gd_rate_limits where bucket = %s", bucket
    )
    return value


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_bucket_that_somebody_has_is_not_waited_for(db, how):
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, DAY, 3)
    rows = limited(c, 6)
    assert ids(a.begin().claim(2)) == rows[:2]
    # what a has locked is not seen, what it has not claimed is: it stands in line, and nobody is passed over
    assert b.claim(10) == []
    assert line(c) == rows[2:]
    assert bells(c) == 1
    a.end(how)
    # whose claim was rolled back is due, and found at the next full scan: the line may be served before
    left = 1 if how == "commit" else 3
    got: list[int] = []
    wait_until(lambda: got.extend(ids(b.claim(10))) or len(got) >= left)
    assert len(got) == left
    assert how == "rollback" or got == rows[2:3]
    assert b.claim(10) == []
    assert level(c) == 0
    no_baton_was_lost(c)


def test_rows_that_stand_in_line_without_the_lock_come_in_their_order(db):
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, DAY, 2)
    rows = limited(c, 5)
    assert ids(c.claim(10)) == rows[:2]
    assert line(c) == rows[2:]
    # an older place than that of the first in line: one that was put off when it came
    older = limited(c, 1, eligible_at="2020-01-01T00:00:00Z")
    a.begin().conn.execute("select gendurable._try_bucket('mail')")
    c.conn.execute("select set_config('gendurable.floor', '', false)")
    assert c.claim(10) == []
    assert line(c) == [*older, *rows[2:]]
    a.end("commit")
    fill(c, 1)
    wait_until(lambda: ids(b.claim(10)) == older)
    no_baton_was_lost(c)


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_tokens_are_those_of_claims_that_commit(db, how):
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, DAY, 3)
    rows = limited(c, 3)
    assert ids(a.begin().claim(10)) == rows
    a.end(how)
    assert len(b.claim(10)) == (0 if how == "commit" else 3)
    assert b.claim(10) == []
    assert level(c) == 0


def test_a_claim_does_not_ring_the_bell_that_it_has_set(db):
    a, _, c = three(db)
    # tokens come faster than a claim takes, one at a time: each ring has one for the first row
    c.call("set_rate_limit", "mail", 1_000_000, "1 second", 1)
    rows = limited(c, 50)
    assert ids(a.claim(100)) == rows[:1]
    for at in range(1, 6):
        ring(c)
        # who parks a row looks again behind it, by a later clock: with its own bells it might go round for ever
        first, second = c.insert(partition_key=f"k{at}"), c.insert(partition_key=f"k{at}")
        assert ids(a.claim(100)) == [rows[at], first]
        assert c.look(second)["eligible_at"] is None
    no_baton_was_lost(c)


def test_who_rings_and_sleeps_is_told_when_to_look_again(db):
    a, _, c = three(db)
    c.call("set_rate_limit", "mail", 20, "1 second", 1)
    limited(c, 3)
    assert len(a.claim(10)) == 1
    a.conn.execute("listen gendurable")
    a.rows("select * from gd_sleep('a', '{default}')")
    ring(c)
    fill(c, 1)
    # its next due time is from before, and its own lock tells nobody that it sleeps
    assert len(a.claim(10)) == 1
    assert [note.payload for note in a.conn.notifies(timeout=5, stop_after=1)] == ["default"]


def test_a_row_without_a_limit_does_not_stand_in_a_line(db):
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, DAY, 1)
    rows = limited(c, 2)
    a.begin().conn.execute("select gendurable._try_bucket('mail')")
    free = c.insert()
    # no bucket is locked: null <> all('{}') is true
    assert ids(b.claim(10)) == [free]
    assert line(c) == rows
    a.end("commit")


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_row_that_a_client_has_locked_holds_nobody_up_and_is_the_first_again(db, how):
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, DAY, 10)
    rows = limited(c, 20)
    assert len(c.claim(50)) == 10
    a.begin().conn.execute("select from gendurable.instance where id = any(%s) for update", (rows[10:12],))
    fill(c, 2)
    ring(c)
    assert ids(b.claim(50)) == rows[12:14]
    a.end(how)
    fill(c, 2)
    ring(c)
    assert ids(b.claim(50)) == rows[10:12]
    no_baton_was_lost(c)


def test_while_a_limit_is_being_set_bells_ring_soon(db):
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, "1 hour", 1)
    rows = limited(c, 3)
    a.begin().call("set_rate_limit", "mail", None)
    # under the limit of before, which is what is committed
    assert ids(b.claim(10)) == rows[:1]
    assert line(c) == rows[1:]
    assert b.one(
        "select max(eligible_at) < clock_timestamp() + interval '3 seconds' from gendurable.instance where id < 0"
    )
    a.end("commit")
    ring(c)
    assert ids(b.claim(10)) == rows[1:]


def test_a_limit_that_was_set_beside_a_claim_rings_its_line(db):
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, "1 hour", 1)
    rows = limited(c, 3)
    assert ids(a.begin().claim(10)) == rows[:1]
    # it waits a little for the claim, which does not end, and does not see its line
    c.call("set_rate_limit", "mail", 10, "1 second", 10)
    a.end("commit")
    assert b.claim(10) == []
    no_baton_was_lost(c)  # no defect: the upkeep rings what is too far away
    got: list[int] = []
    wait_until(lambda: got.extend(ids(b.claim(10))) or len(got) == 2)
    assert got == rows[1:]


def test_a_limit_waits_for_claims_that_are_under_way(db):
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, "1 hour", 1)
    rows = limited(c, 3)
    assert ids(a.begin().claim(10)) == rows[:1]
    sleeps = "select exists (select from pg_stat_activity where pid = %s and wait_event = 'PgSleep')"
    for _ in range(20):  # its wait is a short one, and may end between two looks
        setting = run_in_thread(c.call, "set_rate_limit", "mail", 2, "1 hour", 1)
        wait_until(lambda: setting.done or b.one(sleeps, c.conn.info.backend_pid))  # noqa: B023 - within the turn
        if waited := not setting.done:
            break
    assert waited
    a.end("commit")
    setting.result()
    assert line(c) == rows[1:]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_closing_a_bucket_waits_for_nobody(db, how):
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, DAY, 5)
    rows = limited(c, 4)
    assert ids(a.begin().claim(1)) == rows[:1]
    b.begin().conn.execute("select gd_close_rate_limit('mail', clock_timestamp() + interval '1 hour')")
    a.end("commit")
    b.end(how)
    assert ids(c.claim(1)) == ([] if how == "commit" else rows[1:2])


def test_keys_whose_first_row_is_in_a_line_go_in_order(db):
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, DAY, 1)
    one = c.insert(partition_key="k", rate_limit="mail")
    two = c.insert(partition_key="k", rate_limit="mail")
    three_ = c.insert(partition_key="k")
    other = c.insert(rate_limit="mail")
    assert ids(a.claim(10)) == [one]
    [claim] = c.rows("select id, claim_no from gendurable.instance where id = %s", one)
    assert a.commit_soon(outcome(claim, "done")) == "ok"
    got: list[int] = []
    while len(got) < 3:
        ring(c)
        got += ids(claims := b.claim(10))
        for one_claim in claims:
            assert b.commit_soon(outcome(one_claim, "done")) == "ok"
        fill(c, 1)
    assert got.index(two) < got.index(three_)
    assert set(got) == {two, three_, other}
    no_baton_was_lost(c)


def test_lost_workers_of_limited_keys_drop_no_baton(db):
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, DAY, 2)
    rows = [c.insert(partition_key="k", rate_limit="mail") for _ in range(3)]
    assert ids(a.claim(10, lease=LOST)) == rows[:1]
    assert ids(a.claim_soon(limit=10, lease=LOST)) == rows[:1]  # tried again: a token each time
    wait_until(lambda: b.claim(10) == [] and line(c) == rows[:1])
    assert c.look(rows[0])["slot_no"] is None
    assert c.look(rows[0])["crashes"] == 2
    no_baton_was_lost(c)
    fill(c, 1)
    ring(c)
    assert ids(b.claim_soon(limit=10)) == rows[:1]


def test_changes_of_a_bucket_cost_the_same_beside_a_held_snapshot(db):
    """A row that is updated in place would be found behind all its dead versions, and so would the first of a line."""
    a, b, c = three(db)
    c.call("set_rate_limit", "mail", 1, DAY, 1)
    limited(c, 1_500)
    wait_until(lambda: b.claim(1_000) is not None and len(line(c)) == 1_499)
    c.call("set_rate_limit", "mail", 1_000_000, "1 second", 1)
    fill(c, 1)  # it went on from what was there, which was nothing
    # the settings that claims have
    plain = db.connect(options="-c enable_seqscan=off -c enable_bitmapscan=off")
    a.begin("repeatable read").conn.execute("select count(*) from gendurable.bucket")

    def start() -> None:
        ring(c)
        assert len(b.claim(1)) == 1

    def opened() -> int:
        """Buffers that it takes to open the bucket and to find the first of the line. Twice: the first call reads the
        catalog, and so does one that comes after the server has analyzed a table by itself."""
        query = "select gendurable._open_bucket('mail', 'default', 0, 1, '{}'::bigint[], null, true, null)"
        return min(shared_buffers(plain, query) for _ in range(2))

    for _ in range(20):
        start()
    before = opened()
    for _ in range(1_000):
        start()
    # without its bound a look would walk over every place that the line ever had, and touch the row of each
    assert opened() <= before + 6
    a.end("commit")


@pytest.mark.parametrize(
    ("queues", "parts", "keys", "weights"),
    [(1, 1, 0, [1]), (3, 1, 0, [1]), (1, 5, 0, [0.5, 1, 3]), (2, 2, 10, [1])],
    ids=["one line", "three queues", "five buckets and weights", "keys"],
)
def test_never_more_than_the_limit_in_any_window(db, queues, parts, keys, weights):
    sessions = [Session(db, f"w{n}") for n in range(4)]
    rate, burst = 60.0, 6.0
    control = Session(db)
    control.call("set_rate_limit", "mail", rate, "1 second", burst)
    chance = random.Random(queues * 100 + parts)
    control.insert_many(
        *(
            {
                "queue": f"q{n % queues}",
                "rate_limit": f"mail:{n % parts}",
                "weight": chance.choice(weights),
                **({"partition_key": f"k{chance.randrange(keys)}"} if keys else {}),
            }
            for n in range(600)
        )
    )
    control.conn.execute("create table entered (id bigint)")
    control.conn.execute(
        b"""create function enter() returns trigger language plpgsql as $$
        begin insert into public.entered values (new.id); return null; end $$"""
    )
    control.conn.execute(
        b"""create trigger enter after update on gendurable.instance for each row
        when (old.bucket_at is null and new.bucket_at is not null) execute function enter()"""
    )
    stop = time.monotonic() + 2
    starts: list[Start] = []
    wanted = "{" + ", ".join(f'"q{n}": 5' for n in range(queues)) + "}"

    def work(session: Session, chance: random.Random) -> None:
        mine: list[Start] = []
        while time.monotonic() < stop:
            began = time.monotonic()
            claims = session.rows("select id, claim_no, attempt from gd_claim_many(%s, %s)", session.name, wanted)
            ended = time.monotonic()
            for claim in claims:
                row = session.look(claim["id"])
                mine.append(Start(row["rate_limit"], row["weight"], began, ended))
                again = claim["attempt"] < 3 and chance.random() < 0.1
                assert session.commit_soon(outcome(claim, "replay" if again else "done")) == "ok"
        starts.extend(mine)

    threads = [threading.Thread(target=work, args=(s, random.Random(n))) for n, s in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(starts) > 20
    assert excess(starts, rate, burst) <= 1e-6
    # each was put into its line once for each time that it became due
    most = control.one(
        """select coalesce(max(x.n - i.attempt), 0) from (select id, count(*) as n from entered group by id) x
        join gendurable.instance i using (id)"""
    )
    assert most <= (2 if keys else 1)
    no_baton_was_lost(control)


def test_the_checker_sees_what_is_too_much():
    held = [Start("b", 1, n * 0.1, n * 0.1 + 0.01) for n in range(50)]
    assert excess(held, rate=10, burst=1) <= 0
    assert excess([*held, Start("b", 1, 2.0, 2.001)], rate=10, burst=1) > 0.5
    assert excess([*held, Start("other", 1, 2.0, 2.001)], rate=10, burst=1) <= 0
