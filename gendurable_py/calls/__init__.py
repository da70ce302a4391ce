"""The SQL contract in Python: one call per function, by what it is for. What the engine asks in other shapes stands in
`calls.dispatching`, how its connections are set in `dispatch.session` and `dispatch.pooled`, installing in `install`.

The connection comes first: ``insert(conn, …)`` on a sync `psycopg.Connection`, ``await insert(aconn, …)`` on an
`psycopg.AsyncConnection`. Every call joins the transaction of its connection. A caller's mistake raises an error of
`gendurable_py.errors`; a lost race is an answer. Durations are seconds or a `datetime.timedelta`. The functions are
found through the connection's ``search_path``, in the schema where the extension was created.
"""

from .._contract import LEASE, RETENTION
from ..machine.claim import CLAIMED
from .inserting import insert, insert_many, register
from .inspecting import childs, find, result, watch
from .limiting import close_rate_limit, ensure_rate_limit, set_rate_limit
from .looking import count, doctor, get, list, tree
from .operating import (
    cancel,
    cancel_many,
    gc,
    grant,
    hold_all,
    maintain,
    match,
    pause_queue,
    release_hold,
    reschedule,
    reschedule_many,
    resume_queue,
    retry,
    retry_many,
    set_key_limit,
    set_queue,
    version,
)
from .rows import (
    Announced,
    Claim,
    Claims,
    Committed,
    Counted,
    Finding,
    Inserted,
    Listed,
    Matched,
    Node,
    Page,
    Ran,
    Rehearsed,
    Result,
    Sleep,
    when,
)
from .scheduling import (
    announce_schedules,
    pause_schedule,
    resume_schedule,
    schedule,
    trigger,
    unschedule,
)
from .stepping import define_step, drop_step, rehearse, run, run_claims
from .talking import signal, signal_off, signal_on, signals
from .waiting import wait
from .working import claim, claim_many, commit, commit_one, heartbeat, reap, release, sleep, wake

__all__ = [
    "CLAIMED",
    "LEASE",
    "RETENTION",
    "Announced",
    "Claim",
    "Claims",
    "Committed",
    "Counted",
    "Finding",
    "Inserted",
    "Listed",
    "Matched",
    "Node",
    "Page",
    "Ran",
    "Rehearsed",
    "Result",
    "Sleep",
    "announce_schedules",
    "cancel",
    "cancel_many",
    "childs",
    "claim",
    "claim_many",
    "close_rate_limit",
    "commit",
    "commit_one",
    "count",
    "define_step",
    "doctor",
    "drop_step",
    "ensure_rate_limit",
    "find",
    "gc",
    "get",
    "grant",
    "heartbeat",
    "hold_all",
    "insert",
    "insert_many",
    "list",
    "maintain",
    "match",
    "pause_queue",
    "pause_schedule",
    "reap",
    "register",
    "rehearse",
    "release",
    "release_hold",
    "reschedule",
    "reschedule_many",
    "result",
    "resume_queue",
    "resume_schedule",
    "retry",
    "retry_many",
    "run",
    "run_claims",
    "schedule",
    "set_key_limit",
    "set_queue",
    "set_rate_limit",
    "signal",
    "signal_off",
    "signal_on",
    "signals",
    "sleep",
    "tree",
    "trigger",
    "unschedule",
    "version",
    "wait",
    "wake",
    "watch",
    "when",
]
