"""Schedules: an instance at each tick of a cron expression, fired by whoever claims in its queue.

Machines in code declare theirs with `gendurable_py.scheduled`, and an engine announces them. These calls are for
migrations, people and machines that live elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from .._statement import Statement, call, nothing, one_value
from ..machine.outcome import UNSET, MachineLike
from ..machine.schedule import ScheduleOptions, encode_options, encode_schedules
from ..machine.spec import spec_of
from .dispatching import announcement
from .rows import Announced


@call
def schedule(
    name: str,
    cron: str,
    machine: MachineLike | str,
    state: object = UNSET,
    *,
    timezone: str = "UTC",
    **options: Unpack[ScheduleOptions],
) -> Statement[None]:
    """Insert an instance of the machine at each tick of a cron expression, or change the schedule of this name to that.

    The options are those of `insert`, without times, and two more. ``catch_up``: what missed ticks leave, ``one``
    instance (default), ``none``, or ``all``. ``overlap``: while an earlier instance has not ended, ``allow`` another
    one (default), ``skip`` it, or ``queue`` it. What is left out is what the machine was registered with at the tick.

    Raises:
        InvalidArgument: the expression, the zone or an option is not valid.
    """
    return Statement(
        "select gd_schedule(%s, %s, %s, %s::jsonb, %s)",
        (
            name,
            cron,
            machine if isinstance(machine, str) else spec_of(machine).name,
            encode_options(machine, state, options).decode(),
            timezone,
        ),
        nothing,
    )


@call
def unschedule(name: str) -> Statement[bool]:
    """Forget a schedule; False: there is none. What it has inserted stays."""
    return Statement("select gd_unschedule(%s)", (name,), one_value)


@call
def pause_schedule(name: str) -> Statement[bool]:
    """Stop the ticks of a schedule; False: it is paused already.

    Raises:
        UnknownName: there is no such schedule. So do `resume_schedule` and `trigger`.
    """
    return Statement("select gd_pause_schedule(%s)", (name,), one_value)


@call
def resume_schedule(name: str) -> Statement[bool]:
    """End a pause: the next tick counts from now; False: it is not paused."""
    return Statement("select gd_resume_schedule(%s)", (name,), one_value)


@call
def trigger(name: str) -> Statement[int | None]:
    """Insert now what a schedule inserts at its ticks: the id, or None if its overlap holds it back."""
    return Statement("select gd_trigger(%s)", (name,), one_value)


@call
def announce_schedules(machines: Iterable[MachineLike]) -> Statement[list[Announced]]:
    """Schedule what these machines declared with `scheduled` and is not there, and note that the rest was seen.

    An `Engine` does it at start and once an hour for its machines. None that is there is changed, whatever it says.
    """
    specs = [spec_of(machine) for machine in machines]
    return announcement(encode_schedules(specs), [spec.name for spec in specs])
