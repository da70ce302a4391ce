"""The arguments of an engine, checked once: what every claim would refuse later is refused here.

What comes out is an `Options`, and the `Spec`s of the machines.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from .._contract import Seconds
from .._log import logger
from ..errors import InvalidArgument
from ..machine.fsm import FSM
from ..machine.outcome import MachineLike
from ..machine.spec import Spec, collect_rate_limits, spec_of
from ..machine.times import interval, retention_seconds
from .options import Options, Prefetch

_LONGEST_NAME = 2000
_MOST_ROWS = 100_000
_SHORTEST = timedelta(milliseconds=1)
_SHORTEST_LEASE = timedelta(milliseconds=100)
# The server compares intervals by months of 30 days.
_LONGEST_LEASE = timedelta(days=360_000)
# What is subtracted from now must still be a time that the server has: it knows none before 4714 BC.
_LONGEST_RETENTION = timedelta(days=2_000_000)


def check_options(options: Options, specs: Iterable[Spec]) -> None:
    """Refuse what cannot work together, warn about what probably does not."""
    lease = options.lease_ttl.total_seconds()
    if not 0 < options.heartbeat_interval < lease:
        raise InvalidArgument(
            f"heartbeat_interval is {options.heartbeat_interval} s, the lease {lease} s",
            hint="renew a lease well before it ends: a third of lease_ttl",
        )
    if options.heartbeat_interval > lease / 3:
        told = "heartbeat_interval (%g s) is more than a third of lease_ttl (%g s)"
        logger.warning(told, options.heartbeat_interval, lease)
    if options.poll_interval > options.max_poll_interval:
        raise InvalidArgument(
            f"poll_interval is {options.poll_interval} s, max_poll_interval {options.max_poll_interval} s",
            hint="poll_interval is at most max_poll_interval",
        )
    most = min(options.queues.values(), default=1) + (0 if options.prefetch == "auto" else options.prefetch)
    if options.min_demand > most:
        raise InvalidArgument(
            f"min_demand is {options.min_demand}, but there are never more than {most} free slots",
            hint="give at most the concurrency of the smallest queue plus prefetch",
        )
    specs = list(specs)
    collect_rate_limits(specs)
    for spec in specs:
        if options.queues and spec.queue not in options.queues:
            logger.warning("%s uses the queue %r, which this engine does not serve", spec.name, spec.queue)


def read_machines(machines: object) -> list[Spec]:
    if isinstance(machines, (str, bytes, Mapping)) or not isinstance(machines, Iterable):
        raise InvalidArgument(f"machines is a {_name_kind(machines)}", hint="give a list of machine classes and jobs")
    return [_read_machine(machine) for machine in machines]


def _read_machine(machine: MachineLike) -> Spec:
    if isinstance(machine, FSM):
        raise InvalidArgument(f"{_name_kind(machine)}() is an instance of a machine", hint="give the class")
    spec = spec_of(machine)
    if isinstance(machine, type) and spec.cls is not machine:
        raise InvalidArgument(f"{machine.__name__} is an abstract machine", hint="give a class that is not abstract")
    return spec


def read_queues(queues: object) -> dict[str, int]:
    if queues is None:
        return {"default": 10}
    if not isinstance(queues, Mapping):
        raise InvalidArgument(
            f"queues is a {_name_kind(queues)}", hint='map names to how many steps run at once: {"mail": 5}'
        )
    return {
        _read_queue(name): read_count(limit, f"the concurrency of queue {name!r}", 1) for name, limit in queues.items()
    }


def _read_queue(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidArgument(f"the name of a queue is a {_name_kind(name)}", hint="give a str")
    try:
        length = len(name.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the name of a queue has a lone surrogate: {name!r}") from error
    if not name or "\x00" in name or length > _LONGEST_NAME:
        raise InvalidArgument(
            f"{name[:50]!r} ({length} bytes) cannot be the name of a queue",
            hint=f"give 1 to {_LONGEST_NAME} bytes without NUL",
        )
    return name


def read_transactions(value: object, queues: Mapping[str, int] | None) -> int:
    if value is None:
        return max(1, min(20, sum(read_queues(queues).values())))
    return read_count(value, "transactions", 1)


def read_autoload(packages: object, specs: Iterable[Spec]) -> frozenset[str]:
    if packages is None:
        return frozenset({spec.cls.__module__.partition(".")[0] for spec in specs} - {"__main__"})
    if isinstance(packages, (str, bytes, Mapping)) or not isinstance(packages, Iterable):
        raise InvalidArgument(f"autoload is a {_name_kind(packages)}", hint='give a list of packages: ["app.machines"]')
    found = list(packages)
    for package in found:
        if not isinstance(package, str) or not all(part.isidentifier() for part in package.split(".")):
            raise InvalidArgument(
                f"autoload names {package!r}, which is no package", hint='give names: ["app.machines"]'
            )
    return frozenset(found)


def read_dsn(dsn: object) -> str:
    if not isinstance(dsn, (str, Mapping)):
        raise InvalidArgument(
            f"dsn is a {_name_kind(dsn)}",
            hint="give a connection string, or psycopg's keyword arguments as a dict: an engine makes its own "
            "connections, or has them made by connect",
        )
    try:
        if isinstance(dsn, Mapping):
            return make_conninfo("", **{str(key): value for key, value in dsn.items()})
        conninfo_to_dict(dsn)
    except (psycopg.Error, ValueError) as error:  # not with the string, which may hold a password
        raise InvalidArgument("dsn is no connection string", hint='for example "host=db dbname=app"') from error
    return dsn


def read_connect(connect: object, dsn: object) -> Any:
    if connect is None:
        return None
    if not callable(connect):
        raise InvalidArgument(f"connect is a {_name_kind(connect)}", hint="give a function that answers a connection")
    if dsn:
        raise InvalidArgument("dsn and connect are given", hint="give one of them: connect knows where to go")
    return connect


def read_listener(on_event: object) -> Any:
    if on_event is None:
        return None
    if not callable(on_event):
        raise InvalidArgument(f"on_event is a {_name_kind(on_event)}", hint="give a function of three arguments")
    if inspect.iscoroutinefunction(on_event) or inspect.iscoroutinefunction(type(on_event).__call__):
        raise InvalidArgument("on_event is a coroutine function", hint="give a plain one, which may create a task")
    return on_event


def read_count(value: object, what: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _MOST_ROWS:
        raise InvalidArgument(f"{what} is {_show(value)}", hint=f"give a whole number from {least} to {_MOST_ROWS}")
    return value


def read_prefetch(value: object) -> Prefetch:
    if value == "auto":
        return "auto"
    if isinstance(value, str):
        raise InvalidArgument(f"prefetch is {_show(value)}", hint='give a whole number, or "auto"')
    return read_count(value, "prefetch", 0)


def read_flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(f"{what} is {_show(value)}", hint="give True or False")
    return value


def read_seconds(value: Seconds, what: str, least: timedelta = _SHORTEST) -> float:
    """A duration that is something: a loop that waits for nothing is a loop that spins."""
    return _read_duration(least, value, what).total_seconds()


def read_lease(value: Seconds) -> timedelta:
    lease = _read_duration(_SHORTEST_LEASE, value, "lease_ttl")
    if lease > _LONGEST_LEASE:
        raise InvalidArgument(f"lease_ttl is {value}", hint="give less than 1,000 years")
    return lease


def read_retention(value: Seconds) -> timedelta:
    return min(timedelta(seconds=retention_seconds(value)), _LONGEST_RETENTION)


def _read_duration(least: timedelta, value: Seconds, what: str) -> timedelta:
    duration = interval(value, what)
    if duration < least:
        raise InvalidArgument(f"{what} is {value}", hint=f"give {least.total_seconds()} seconds or more")
    return duration


def _name_kind(value: object) -> str:
    return type(value).__name__


def _show(value: object) -> str:
    return f"{value!r}"[:50] if isinstance(value, (int, float, str)) else f"a {_name_kind(value)}"
