"""What the model test feeds in: few names, so that everything meets everything."""

from __future__ import annotations

from random import Random
from typing import Any

QUEUES = ["default", "other"]
STEPS = ["r1", "r2"]
"""Those that may have a queue of their own, besides the first."""
KEYS = ["a", "b", "c:1"]
UNIQUE = ["u", "v"]
SIGNALS = ["x", "y", "z"]
RATES = {"free": "open", "tight": "tight"}
BUCKETS = ["free", "tight", "tight", "tight:a"]
WORKERS = ["w0", "w1", "w2"]
SCOPES = [
    [],
    ["runnable"],
    ["executing"],
    ["runnable", "executing"],
    ["executing", "awaiting_signal"],
    ["awaiting_children", "failed"],
    ["runnable", "executing", "awaiting_signal", "awaiting_children", "done"],
]
KINDS = {"next": 5, "await": 4, "schedule_childs": 3, "replay": 2, "done": 2, "error": 2, "stop": 1, "bad": 1}
# What is wrong with new instances is found when it is known that the claim stands.
BAD_WITHIN: list[dict[str, Any]] = [
    {"kind": "schedule_childs", "step": "s", "childs": [{"fsm": "m"}, {"fsm": "m", "queue": ""}]},
    {"kind": "schedule_childs", "step": "s", "childs": [{"fsm": "m", "unknown": 1}]},
    {"kind": "done", "insert": [{"fsm": "m"}, {"fsm": "m", "queue": ""}]},
    {"kind": "next", "step": "s", "insert": [{"fsm": "m", "rate_limit": "nobody set it"}]},
    {"kind": "done", "journal": {"at": 7777, "add": [{"k": "step"}]}},
]
BAD: list[dict[str, Any]] = [
    {"kind": "nonsense"},
    {"kind": "next"},
    {"kind": "next", "step": "s", "delay_ms": -1},
    {"kind": "replay", "unknown": 1},
    {"kind": "next", "step": "s", "state": []},
    {"kind": "await", "signals": []},
    {"kind": "next", "step": "s", "signal": [{"unique_key": "u"}]},
    {"kind": "done", "signal": [{"id": "1", "name": "x"}]},
    {"kind": "error", "error": "e", "insert": []},
    {"kind": "replay", "at": {}},
    {"kind": "next", "step": "s", "keep": True, "journal": {"at": 0, "add": []}},
    *BAD_WITHIN,
]


class Chance(Random):
    def once_in(self, times: int) -> bool:
        return self.randrange(times) == 0

    def fields(self, **options: list[Any]) -> dict[str, Any]:
        """One option of each; None leaves the field out."""
        drawn = {name: self.choice(values) for name, values in options.items()}
        return {name: value for name, value in drawn.items() if value is not None}


def instance(chance: Chance, token: int) -> dict[str, Any]:
    new = {"fsm": "m", "state": {"tok": token}} | chance.fields(
        queue=[None, None, None, *QUEUES],
        priority=[None, None, None, -1, 1],
        partition_key=[None, None, *KEYS],
        unique_key=[None, None, None, *UNIQUE],
        delay_ms=[None, None, None, None, 30_000, 1_000_000],
        max_attempts=[None, None, 1, 2],
        expires_ms=[None, None, None, None, 0, 33_000, 300_000],
    )
    if chance.once_in(2):
        new |= {"rate_limit": chance.choice(BUCKETS), "weight": chance.choice([0.5, 1, 1, 2])}
    if "unique_key" in new and chance.once_in(2):
        new["unique_scope"] = chance.choice(SCOPES)
    return new


def outcome(chance: Chance, token: int) -> dict[str, Any]:
    """An outcome without its claim. Each transition leaves the mark `token`: one that is lost or undone is seen."""
    [kind] = chance.choices(list(KINDS), list(KINDS.values()))
    if kind == "bad":
        return chance.choice(BAD)
    fields: dict[str, Any] = {"kind": kind}
    if kind in ("next", "replay", "await", "schedule_childs"):
        fields["state"] = {"tok": token}
    if kind in ("next", "schedule_childs"):
        fields["step"] = chance.choice([f"s{token}", *STEPS])
    if kind == "next":
        fields |= chance.fields(
            delay_ms=[None, None, None, 30_000, 1_000_000],
            priority=[None, None, None, -1, 1],
            queue=[None, None, None, *QUEUES],
            keep=[None, True],
        )
        if chance.once_in(4):
            fields["partition_key"] = chance.choice([None, *KEYS])
        if chance.once_in(4):
            fields["rate_limit"] = chance.choice(BUCKETS)
            fields |= chance.fields(weight=[None, 0.5, 2])
    elif kind == "await":
        fields["signals"] = chance.choice(["x", "y", ["x", "y"], ["z"]])
        fields |= chance.fields(timeout_ms=[None, None, 0, 30_000], step=[None, f"s{token}", *STEPS])
    elif kind == "schedule_childs":
        fields["childs"] = [instance(chance, token + n) for n in range(chance.randrange(4))]
    elif kind == "done":
        fields["result"] = {"tok": token}
    elif kind == "stop":
        fields["reason"] = "stopped"
    else:
        fields |= chance.fields(delay_ms=[None, 30_000], error=[f"e{token}"])
    if kind != "error" and chance.once_in(4):
        fields["insert"] = [instance(chance, token + 4 + n) for n in range(chance.randint(1, 2))]
    if kind != "error" and chance.once_in(8):
        fields["at"] = {"step": f"at{token}"} | chance.fields(state=[None, {"tok": token}])
    return fields


def sends(chance: Chance, token: int, ids: list[int]) -> list[dict[str, Any]]:
    """The signals of an outbox. Their payloads tell them apart."""
    return [
        {"name": chance.choice(SIGNALS), "payload": {"tok": token + n}}
        | (
            {"unique_key": chance.choice(UNIQUE)}
            if not ids or chance.once_in(3)
            else {"id": chance.choice([*ids, 4_000_000_000_000])}
        )
        | chance.fields(dedup_key=[None, None, None, "d"])
        for n in range(chance.randint(1, 3))
    ]


def journal(chance: Chance, token: int, count: int, kind: str) -> dict[str, Any]:
    """What an outcome of this kind appends to a journal of so many entries."""
    at = chance.choice([count, count, chance.randint(0, count)])
    add: list[dict[str, Any]] = [{"k": "step", "name": f"s{token}"}, {"k": "timer"}][: chance.randint(1, 2)]
    if kind == "stop":
        add.append({"k": "end", "failed": chance.choice([None, chance.randint(1, at + len(add))])})
    return {"at": at, "add": add, **({"forget": True} if at < count or chance.once_in(4) else {})}
