"""Defects to plant into the engine on purpose, to see the suite find them: python -m tests_py.chaos --sabotage NAME.

Each is a change of one place in one file of sql, made in the database of the scene only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

from . import TESTS

SQL = TESTS.parent / "sql"


class Defect(NamedTuple):
    """`finds`: the judges of which at least one should complain."""

    file: str
    old: str
    new: str
    finds: tuple[str, ...]

    def sql(self) -> str:
        text = (SQL / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has {text.count(self.old)} times: {self.old}")
        return text.replace(self.old, self.new)

    def plant(self, conn: psycopg.Connection[Any]) -> None:
        conn.execute(self.sql().encode())


DEFECTS = {
    # a commit does not look whether the claim is still its own
    "unfenced": Defect(
        "api/134_lock.sql",
        "where x.id >= o.id and x.id <= o.id and x.claim_no = o.claim_no and x.status = 'executing'",
        "where x.id >= o.id and x.id <= o.id and x.status = 'executing'",
        ("run", "transition"),
    ),
    # nor do commits of plain outcomes
    "unfenced batch": Defect(
        "kernel/089_plain.sql",
        "            -- backwards, as in _lock_outcomes\n"
        "            where x.id >= o.id and x.id <= o.id and x.claim_no = o.claim_no and x.status = 'executing'",
        "            where x.id >= o.id and x.id <= o.id and x.status = 'executing'",
        ("run", "transition"),
    ),
    # whoever frees a slot does not tell who waits
    "no baton": Defect(
        "kernel/060_baton.sql",
        "    if p_keys is null or p_keys = '{}' then\n        return;\n    end if;\n",
        "    return;\n",
        ("stuck",),
    ),
    # a waiting row may be passed by any other of its key
    "no order": Defect(
        "kernel/050_lanes.sql",
        "                order by i.priority, i.lane_at, i.id\n                limit 1\n",
        "                order by i.id desc\n                limit 1\n",
        ("order",),
    ),
    # a parent goes on while one of its children has not ended
    "early release": Defect(
        "api/136_apply.sql",
        "    if v_one.children = 0 then",
        "    v_one.children := v_one.children - (v_one.children > 1)::int;\n    if v_one.children = 0 then",
        ("barrier", "join"),
    ),
    # a claim waits for the rows that a client's transaction holds
    "waits": Defect(
        "api/113_pick.sql",
        "        limit p_limit\n        for no key update skip locked);",
        "        limit p_limit\n        for no key update);",
        ("blocked",),
    ),
    # what starts out of a line is not paid for
    "free tokens": Defect(
        "api/117_close.sql",
        "p_opened.full_at, p_opened.us, p_opened.burst, least(p_taken, p_opened.level), p_opened.clock);",
        "p_opened.full_at, p_opened.us, p_opened.burst, 0, p_opened.clock);",
        ("limit",),
    ),
    # a claim does not count what executes in its queue
    "no room": Defect(
        "kernel/099_slots.sql",
        "    v_room := v_room - v_used.used;\n",
        "",
        ("queue",),
    ),
    # a schedule that has fired stands at the tick that it fired for
    "tick again": Defect(
        "kernel/075_schedules.sql",
        "    if v_again is not null then\n        v_next := v_s.next_at;\n    end if;\n",
        "    v_next := v_s.next_at;\n",
        ("schedule",),
    ),
    # a signal that a step used is there for the next one too
    "inbox kept": Defect(
        "api/132_read.sql",
        "            when jsonb_typeof(p_outcome -> 'consume') = 'array'\n                then",
        "            when jsonb_typeof(p_outcome -> 'consume') = 'nothing'\n                then",
        ("signal",),
    ),
    # what a handler wrote stays though its commit was refused
    "refused and kept": Defect(
        "api/244_group.sql",
        "            state := 'answers';\n            raise exception using errcode = 'GD507', "
        "message = 'not all could be committed', hint = 'This is not seen.';\n",
        "            state := 'answers';\n",
        ("once", "half"),
    ),
    # gd_commit_one does not mind that its claim is lost
    "lost and kept": Defect(
        "api/131_commit_one.sql",
        "    if not found then\n        perform gendurable._raise_lost(v_outcome);\n    end if;\n    v_keys",
        "    if not found then\n        return null;\n    end if;\n    v_keys",
        ("once", "half"),
    ),
}
