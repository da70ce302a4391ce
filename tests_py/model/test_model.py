"""The engine against the reference model: random calls from clients and workers, compared after each of them.

By itself it makes the same calls each time; GENDURABLE_MODEL_EXAMPLES=1000 (and GENDURABLE_MODEL_STEPS) makes it
search. A failure prints the calls that led to it, as few as it finds.
"""

from __future__ import annotations

import os

import pytest
from conftest import Database
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test
from support.model import SECOND
from support.model_clients import Clients
from support.model_inputs import QUEUES, RATES, WORKERS, Chance
from support.model_row import Row
from support.model_steps import SCHEMA, Steps
from support.model_world import World

LONGER = "GENDURABLE_MODEL_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("GENDURABLE_MODEL_EXAMPLES", "80"))
STEPS = int(os.environ.get("GENDURABLE_MODEL_STEPS", "40"))


RULES = {
    "insert": 8,
    "claim": 8,
    "claim_many": 4,
    "commit": 12,
    "work": 12,
    "commit_one": 6,
    "run_claims": 8,
    "signal": 10,
    "cancel": 4,
    "retry": 5,
    "reschedule": 3,
    "pause_or_resume": 3,
    "pause_or_resume_one": 4,
    "pause_or_resume_machine": 4,
    "limit_a_key": 5,
    "route_a_step": 5,
    "hold_a_key": 1,
    "set_a_rate_limit": 4,
    "hold_or_release": 4,
    "end_a_transaction": 8,
    "heartbeat": 2,
    "release": 3,
    "crash": 1,
    "has_crashed_often": 2,
    "lose_a_worker": 3,
    "reap": 3,
    "collect": 3,
    "time_passes": 6,
    "everything_that_can_start_starts": 5,
}


class Machine(Clients, Steps):
    @initialize(salt=st.integers(0, 1 << 16))
    def begin_with_some(self, salt: int) -> None:
        self.salt = salt
        self.chance = Chance(salt)
        self.insert_now(8, many=True, hold=False)

    @rule(seed=st.integers(0, 1 << 16))
    def act(self, seed: int) -> None:
        """One call. What it is comes from the seed as a whole: drawn part by part the calls are too much alike."""
        self.chance = Chance((self.salt << 17) + seed)
        self.do(self.chance.choices(list(RULES), list(RULES.values()))[0])

    def do(self, what: str) -> None:
        self.begun += 1
        note(f"# {what}")
        getattr(self, what)()

    def time_passes(self) -> None:
        seconds = self.chance.choice([1, 31, 65, 400, 1100])
        if not self.open:
            self.world.pass_time(seconds)

    def collect(self) -> None:
        self.collect_now(1000)

    def collect_now(self, seconds: int) -> None:
        answer, change = self.world.ask(self.world.client, "select gd_gc(%s * interval '1 second') as count", seconds)
        real = self.world.rows()
        change.gone = self.model.rows.keys() - real.keys()
        assert len(change.gone) == answer[0]["count"]
        for row in self.model.rows.values():
            parent = self.model.rows.get(row.parent or 0)
            old = [moment - seconds * SECOND for moment in change.now]
            may = row.finished is not None and row.finished[0] < old[1] and (parent is None or parent.ended)
            must = may and row.finished is not None and row.finished[1] < old[0]
            carries = row.key is not None and real.get(row.id, {}).get("at") is not None
            assert may if row.id in change.gone else not must or carries or self.touched(row), row
        change.apply()

    def everything_that_can_start_starts(self) -> None:
        """No open transaction stops the work of others, and nothing that is due is overlooked."""
        name = self.chance.choice(WORKERS)
        if not self.open:
            self.world.pass_time(1)  # a row may wait a little for one that was locked
        self.world.forget_floors()
        before = self.world.now()
        empty = 0
        while empty < 3:  # a claim that lifts the first row of a key may leave it to the next one
            empty = 0 if sum(self.claim_now(name, queue, 50) for queue in QUEUES) else empty + 1
            if not self.open:
                self.world.pass_time(1)  # the bell of a line rings a little later
        for row in self.model.rows.values():
            if self.touched(row) or row.queue in self.model.paused or self.model.stopped(row) or not row.waits:
                continue
            if self.model.held or (row.rate_limit is not None and (self.open or self.model.starves(row))):
                continue
            assert row.expires is None or row.expires[1] > before or row.at is None or row.at[1] > before or row.key, (
                row
            )
            if row.at is None or row.at[1] > before or (row.rests is not None and row.rests[1] > before):
                continue
            assert row.key is not None, ("overlooked", row)
            # a row that was given back for a while keeps its turn: it counts as one that has begun
            ahead = self.model.waiting(row.key, before)
            resting = [
                r
                for r in ahead[: ahead.index(row)]
                if (r.rests is not None and r.rests[1] > before)
                or (r.rate_limit and (self.open or self.model.starves(r)))
            ]
            busy = len(self.model.executing(row.key)) + len(resting)
            assert busy >= self.model.limit(row.key), ("a free slot was not given", row)

    def teardown(self) -> None:
        if self.begun == self.agreed:
            while self.open:
                self.close(0, commit=True)
            self.database_agrees()
            self.everything_ends()

    def everything_ends(self) -> None:
        """No instance is stuck: each one can be driven to its end."""
        for queue in list(self.model.paused):
            self.pause_now(queue, False)
        self.nothing_is_paused()
        self.hold_now(False)
        for name in RATES:
            self.set_rate_now(name, "open")
        self.everything_that_can_start_starts()
        self.database_agrees()
        for _ in range(30):
            live = [r for r in self.model.rows.values() if not r.ended]
            if not live:
                break
            self.world.pass_time(1500)
            for row in live:
                self.answer(row)
            self.run_all()
        assert not live, ("stuck", live)
        self.reap_now("w0", True)
        self.database_agrees()
        self.world.pass_time(4000)
        self.run_all()
        bells = self.world.admin.execute("select count(*) from gendurable.instance where id < 0").fetchone()
        assert bells == (0,), "a bell rings for nobody"
        self.collect_now(0)
        assert self.model.rows == {}, "ended instances are not removed"

    def answer(self, row: Row) -> None:
        if row.status == "awaiting_signal" and row.deadline is None:
            assert row.awaits is not None
            rows, change = self.world.ask(
                self.world.client, "select gd_signal(%s::bigint, %s) as answer", row.id, row.awaits[0]
            )
            assert rows[0]["answer"] == "delivered"
            change.deliver(row.id, self._sent(row.id, False), row.awaits[0], None, None)
            change.apply()

    def run_all(self) -> None:
        name = WORKERS[0]
        self.world.forget_floors()
        empty = 0
        while empty < 3:
            self.claims[name].clear()
            empty = 0 if sum(self.claim_now(name, queue, 50) for queue in QUEUES) else empty + 1
            self.database_agrees()
            done = {"kind": "done", "result": None}
            batch = [{"id": n, "claim_no": c, **done} for n, c in self.claims[name].items()]
            if batch:
                self.commit_now(name, batch)
            self.database_agrees()


@pytest.mark.timeout(3600)
def test_the_engine_does_what_the_model_does(db: Database) -> None:
    world = World(db.connect, WORKERS)
    world.admin.execute(SCHEMA.encode())

    class WithDatabase(Machine):
        pass

    WithDatabase.world = world
    run_state_machine_as_test(
        WithDatabase,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not LONGER,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
