"""What can be done to queues, machines, schedules, limits and workers, and to everything at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.datastructures import QueryParams

from ... import calls
from ...machine.outcome import UNSET, Unset
from ..look import Look
from ..query import needed, query
from ..source import Conn
from ..words import Unreadable, duration, moment, whole
from .forms import Act, Field, Outcome, Plan, Values, given, required

Do = Callable[[Conn, QueryParams, Values], Awaitable[Outcome]]


def _say(
    title: Callable[[QueryParams], str],
    says: str,
    button: str,
    back: Callable[[QueryParams], str],
    fields: tuple[Field, ...] = (),
    grave: bool = False,
) -> Callable[[Look], Awaitable[Plan]]:
    """A plan that needs no look at the database."""

    async def plan(look: Look) -> Plan:
        return Plan(title(look.params), (says,), button, back(look.params), fields, grave)

    return plan


def _named(word: str) -> Callable[[QueryParams], str]:
    return lambda params: f"{word} {needed(params, 'name')}"


def _page(path: str, *, one: bool = True) -> Callable[[QueryParams], str]:
    return lambda params: path + (query(name=needed(params, "name")) if one else "")


def _to(path: str, params: QueryParams, verb: str) -> str:
    return path + query(name=params["name"], did=verb)


# -- queues


async def pause_queue(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    await calls.pause_queue(conn, needed(params, "name"))
    return Outcome(True, to=_to("/queue", params, "pause"))


async def resume_queue(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    await calls.resume_queue(conn, needed(params, "name"))
    return Outcome(True, to=_to("/queue", params, "resume"))


async def set_queue(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    said = {name: _number(values, name) for name in ("limit", "concurrency")}
    if all(isinstance(value, Unset) for value in said.values()):
        raise Unreadable("nothing is said to be set")
    await calls.set_queue(conn, needed(params, "name"), limit=said["limit"], concurrency=said["concurrency"])
    return Outcome(True, to=_to("/queue", params, "set"))


def _number(values: Values, name: str) -> int | Unset | None:
    text = given(values, name)
    if text is None:
        return UNSET
    return None if text.strip() == "none" else whole(text, name, 0)


_SET_QUEUE = (
    Field("limit", "Over all workers", help="How many execute at once; none: any number. Empty: as it is."),
    Field("concurrency", "Each worker", help="How many each executes at once; none: its own number. Empty: as it is."),
)
QUEUE = (
    Act(
        "pause", ("gd_pause_queue",),
        _say(_named("Pause queue"), "Nothing more is claimed from it. What executes is finished.", "Pause it",
             _page("/queue")),
        pause_queue,
    ),
    Act(
        "resume", ("gd_resume_queue",),
        _say(_named("Resume queue"), "What is due there is claimed again.", "Let it go on", _page("/queue")),
        resume_queue,
    ),
    Act(
        "set", ("gd_set_queue",),
        _say(_named("Set queue"), "It holds at once, without a deploy, until it is set again.", "Set it",
             _page("/queue"), _SET_QUEUE),
        set_queue,
    ),
)  # fmt: skip


# -- machines


def _place(params: QueryParams) -> tuple[str, int | None, str | None]:
    version = params.get("version")
    return needed(params, "name"), whole(version, "version") if version else None, params.get("step") or None


def _place_in_words(word: str) -> Callable[[QueryParams], str]:
    def title(params: QueryParams) -> str:
        name, version, step = _place(params)
        return f"{word} {name}" + (f", version {version}" if version else "") + (f", step {step}" if step else "")

    return title


async def pause_machine(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    done = await calls.pause_machine(conn, *_place(params))
    return Outcome(done, "It is paused already.", _to("/machine", params, "pause"))


async def resume_machine(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    done = await calls.resume_machine(conn, *_place(params))
    return Outcome(done, "The very same is not paused.", _to("/machine", params, "resume"))


MACHINE = (
    Act(
        "pause", ("gd_pause_machine",),
        _say(_place_in_words("Pause"), "None of its instances starts a step there, whatever the queue. What executes "
             "is finished; who waits behind them goes on.", "Pause it", _page("/machine")),
        pause_machine,
    ),
    Act(
        "resume", ("gd_resume_machine",),
        _say(_place_in_words("Resume"), "Its instances go on where they were.", "Let it go on", _page("/machine")),
        resume_machine,
    ),
)  # fmt: skip


# -- schedules


async def trigger(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    made = await calls.trigger(conn, needed(params, "name"))
    to = f"/instances/{made}" + query(did="trigger")
    return Outcome(made is not None, "Its overlap holds it back: an earlier instance has not ended.", to)


async def pause_schedule(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    done = await calls.pause_schedule(conn, needed(params, "name"))
    return Outcome(done, "It is paused already.", "/schedules" + query(did="pause"))


async def resume_schedule(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    done = await calls.resume_schedule(conn, needed(params, "name"))
    return Outcome(done, "It is not paused.", "/schedules" + query(did="resume"))


async def unschedule(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    done = await calls.unschedule(conn, needed(params, "name"))
    return Outcome(done, "There is no such schedule (any more).", "/schedules" + query(did="remove"))


_SCHEDULES = _page("/schedules", one=False)
SCHEDULE = (
    Act(
        "trigger", ("gd_trigger",),
        _say(_named("Trigger schedule"), "It inserts now what it inserts at its ticks. The ticks stay as they are.",
             "Trigger it", _SCHEDULES),
        trigger,
    ),
    Act(
        "pause", ("gd_pause_schedule",),
        _say(_named("Pause schedule"), "It does not tick until it is resumed. What it has inserted goes on.",
             "Pause it", _SCHEDULES),
        pause_schedule,
    ),
    Act(
        "resume", ("gd_resume_schedule",),
        _say(_named("Resume schedule"), "The next tick counts from now: none is made up for.", "Let it tick",
             _SCHEDULES),
        resume_schedule,
    ),
    Act(
        "remove", ("gd_unschedule",),
        _say(_named("Remove schedule"), "It is forgotten; what it has inserted stays. An engine that has it in its "
             "code makes it again when it starts.", "Remove it", _SCHEDULES, grave=True),
        unschedule,
    ),
)  # fmt: skip


# -- limits


async def set_limit(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    name = params.get("name") or required(values, "limit_name")
    allowed = required(values, "allowed").strip()
    if allowed == "none":
        await calls.set_rate_limit(conn, name, None)
    else:
        burst = given(values, "burst")
        period = duration(required(values, "period").strip())
        await calls.set_rate_limit(
            conn, name, _real(allowed, "allowed"), period, None if burst is None else _real(burst, "burst")
        )
    return Outcome(True, to="/limits" + query(did="set"))


def _real(text: str, name: str) -> float:
    try:
        found = float(text)
    except ValueError:
        raise Unreadable(f"{name} must be a number") from None
    if not 0 <= found < float("inf"):
        raise Unreadable(f"{name} must be a number from 0 on")
    return found


async def plan_limit(look: Look) -> Plan:
    name = look.params.get("name")
    fields = (
        *(() if name else (Field("limit_name", "Name", needed=True),)),
        Field("allowed", "May start", help="So many in each period; none: the limit is gone.", needed=True),
        Field("period", "In each", help="1s, 1m, 1h", value="1m"),
        Field("burst", "At once", help="Up to so many. Empty: as many as in a period."),
    )
    says = ("It holds over all workers, at once. What waits for it starts as it then may.",)
    return Plan(f"Set rate limit {name or ''}".strip(), says, "Set it", "/limits", fields)


async def close_limit(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    until = moment(required(values, "until").strip(), ahead=True)
    await calls.close_rate_limit(conn, needed(params, "name"), until)
    return Outcome(True, to="/limits" + query(did="close"))


async def open_limit(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    await calls.close_rate_limit(conn, needed(params, "name"), None)
    return Outcome(True, to="/limits" + query(did="open"))


async def set_key(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    text = required(values, "limit").strip()
    await calls.set_key_limit(conn, required(values, "prefix"), None if text == "none" else whole(text, "limit", 1))
    return Outcome(True, to="/limits" + query(did="set"))


_LIMITS = _page("/limits", one=False)
LIMIT = (
    Act("set", ("gd_set_rate_limit",), plan_limit, set_limit),
    Act(
        "close", ("gd_close_rate_limit",),
        _say(_named("Close rate limit"), "Nothing of it starts before that time.", "Close it", _LIMITS,
             (Field("until", "Until", help="10m from now, or 2027-01-31T06:00", value="10m", needed=True),)),
        close_limit,
    ),
    Act("open", ("gd_close_rate_limit",),
        _say(_named("Open rate limit"), "What waits for it starts as its tokens allow.", "Open it", _LIMITS),
        open_limit),
    Act(
        "keys", ("gd_set_key_limit",),
        _say(lambda params: "Set the limit of keys", "So many instances of one key execute at once, of the keys PREFIX "
             "and PREFIX:…", "Set it", _LIMITS,
             (Field("prefix", "Prefix of keys", needed=True),
              Field("limit", "At once", help="none: one again.", needed=True))),
        set_key,
    ),
)  # fmt: skip


# -- workers, and everything


async def drain(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    done = await calls.drain_worker(conn, needed(params, "name"))
    return Outcome(done, "No worker that lives has this name.", "/workers" + query(did="drain"))


async def undrain(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    done = await calls.resume_worker(conn, needed(params, "name"))
    return Outcome(done, "It was not draining.", "/workers" + query(did="resume"))


async def hold(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    await calls.hold_all(conn, required(values, "reason"))
    return Outcome(True, to="/" + query(did="hold"))


async def release(conn: Conn, params: QueryParams, values: Values) -> Outcome:
    return Outcome(await calls.release_hold(conn), "Nothing was held.", "/" + query(did="release"))


_WORKERS = _page("/workers", one=False)
_ROOT = _page("/", one=False)
WORKER = (
    Act(
        "drain", ("gd_drain_worker",),
        _say(_named("Drain"), "It finishes what it has and claims nothing more.", "Drain it", _WORKERS),
        drain,
    ),
    Act("resume", ("gd_resume_worker",),
        _say(_named("Resume"), "It claims again.", "Let it work", _WORKERS), undrain),
)  # fmt: skip
EVERYTHING = (
    Act(
        "hold", ("gd_hold_all",),
        _say(lambda params: "Hold everything", "Nothing more is handed out, in any queue, until you release it. What "
             "executes goes on.", "Hold everything", _ROOT, (Field("reason", "Reason", needed=True),), grave=True),
        hold,
    ),
    Act("release", ("gd_release_hold",),
        _say(lambda params: "Release the hold", "Everything goes on.", "Release it", _ROOT), release),
)  # fmt: skip
