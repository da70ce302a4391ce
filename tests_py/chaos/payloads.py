"""What clients may put in: states, signals, results, names and priorities that nobody would choose with good intent."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import psycopg

from gendurable_py import FSM, Await, Child, Context, Done, Next, Outcome, ScheduleChilds, step

QUEUE = "hostile"
PAUSE = 0.1
# Unfinished ones at once: they are to be among the work, not to be the work.
MOST = 40
LONGEST_NAME = 2000
MEGABYTE = 1_000_000


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


# Documents by name, as JSON text.
DOCUMENTS: dict[str, Callable[[], str]] = {
    "deep": lambda: nested(300),
    "deeper": lambda: '{"a":' * 3000 + "1" + "}" * 3000,
    "digits": lambda: "9" * 5000,
    "exponent": lambda: "1e400",
    "small": lambda: "-1e-400",
    "precise": lambda: "0." + "1234567890" * 50,
    "text": lambda: json.dumps("\x01\u202e\ufeff\U0001f4a5 '; drop schema gendurable cascade; -- %s {} \\"),
    "wide": lambda: json.dumps({f"key {n}": n for n in range(5000)}),
    "names": lambda: json.dumps({"": 1, "__class__": 2, "id": "x", "claim_no": None, "x" * 5000: []}),
    "scalar": lambda: "true",
    "null": lambda: "null",
}
BIG: dict[str, Callable[[], str]] = {
    "5 MB": lambda: json.dumps("x" * 5 * MEGABYTE),
    "20 MB": lambda: json.dumps({"x": ["y" * 1000] * 20_000}),
}

# What a step gives back as its result.
RESULTS: dict[str, Callable[[], Any]] = {
    "nan": lambda: float("nan"),
    "surrogate": lambda: "\ud800",
    "nul": lambda: {"a\x00": "\x00"},
    "digits": lambda: 10**4999,
    "deep": lambda: json.loads(nested(300)),
    "object": object,
    "keys": lambda: {1: 2, None: 3},
    "bytes": lambda: b"\xff",
    "big": lambda: "z" * 5 * MEGABYTE,
    "self": lambda: _loop(),
}


def _loop() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


class Hostile(FSM, name="around.hostile", queue=QUEUE, max_attempts=2, backoff=lambda attempt: 0.1):
    """Does with what it was given what its state says."""

    @step
    def start(self, ctx: Context[Any]) -> Outcome:
        what = ctx.state.get("do")
        match what:
            case "next":
                return Next("end", ctx.state)
            case "await":
                taken = [signal.payload for signal in ctx.signals]
                return Done(len(taken)) if taken or ctx.timed_out else Await("noise", timeout=2)
            case "childs":
                return ScheduleChilds("end", [Child(Hostile, {"do": "big"})] * 4)
            case "raise":
                raise RuntimeError("\x00\ud800" + "x" * 100_000)
            case "big":
                return Done(RESULTS["big"]())
        return Done(RESULTS[what]() if what in RESULTS else ctx.state)

    @step
    def end(self, ctx: Context[Any]) -> Done:
        return Done([len(ctx.childs), ctx.state])


class Payloads:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.kinds: list[Callable[[psycopg.Connection[Any]], object]] = [
            self._state,
            self._state,
            self._result,
            self._inbox,
            self._priority,
            self._priority,
            self._names,
            self._unknown,
        ]

    def put_in(self, conn: psycopg.Connection[Any]) -> str:
        """One of them, and what it was; refused is well, too."""
        kind = self._chance.choice(self.kinds)
        try:
            kind(conn)
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError:
            return "payload refused"
        return f"payload: {kind.__name__[1:]}"

    def _insert(self, conn: psycopg.Connection[Any], state: str, **more: Any) -> int | None:
        arguments = {"p_queue": QUEUE, **more}
        fsm = arguments.pop("fsm", "around.hostile")
        named = "".join(f", {name} => %s" for name in arguments)
        row = conn.execute(
            f"select gd_insert(%s, %s::jsonb{named})".encode(), (fsm, state, *arguments.values())
        ).fetchone()
        return row and row[0]

    def _document(self) -> str:
        kinds = BIG if self._chance.random() < 0.04 else DOCUMENTS
        return kinds[self._chance.choice(sorted(kinds))]()

    def _state(self, conn: psycopg.Connection[Any]) -> None:
        document = self._document()
        what = self._chance.choice(("next", "state"))
        whole = self._chance.random() < 0.3
        self._insert(conn, document if whole else f'{{"do": "{what}", "with": {document}}}')

    def _result(self, conn: psycopg.Connection[Any]) -> None:
        what = self._chance.choice([*RESULTS, "raise", *(["childs"] if self._chance.random() < 0.1 else [])])
        self._insert(conn, json.dumps({"do": what}))

    def _inbox(self, conn: psycopg.Connection[Any]) -> None:
        id = self._insert(conn, '{"do": "await"}')
        many = self._chance.random() < 0.05
        for n in range(5 if many else 3):
            payload = BIG["5 MB"]() if many else self._document()
            name = "noise" if n else "ö" * (LONGEST_NAME // 2)
            conn.execute("select gd_signal(%s::bigint, %s, %s::jsonb)", (id, name, payload))

    def _priority(self, conn: psycopg.Connection[Any]) -> None:
        for _ in range(5):
            self._insert(conn, "{}", p_priority=self._chance.randint(-500, 500))

    def _names(self, conn: psycopg.Connection[Any]) -> None:
        name = self._chance.choice(("k" * LONGEST_NAME, "ö" * (LONGEST_NAME // 2), "\x01'\"\\%s $$ {}", "k" * 3000))
        argument = self._chance.choice(("p_partition_key", "p_unique_key", "p_step"))
        # A step that no process has is as good as a machine that none has: given back until somebody cancels it.
        fsm = "no.such:Machine" if argument == "p_step" else "around.hostile"
        self._insert(conn, "{}", fsm=fsm, **{argument: name})

    def _unknown(self, conn: psycopg.Connection[Any]) -> None:
        """A machine that nobody has; given back again and again, until somebody cancels it."""
        self._insert(
            conn, "{}", fsm=self._chance.choice(("no.such:Machine", "__main__:x", "os:system", "f" * LONGEST_NAME))
        )
