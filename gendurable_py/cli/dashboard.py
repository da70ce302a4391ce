"""``dashboard``: serve the pages of `gendurable_py.web` from this machine. Secrets come by files or the environment."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .frame import Frame, Refused, command
from .reading import duration

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Receive, Scope, Send

PANEL = "Looking"
_HERE = ("127.0.0.1", "::1")
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


def add(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "dashboard", panel=PANEL)(dashboard)


def dashboard(
    frame: Frame,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any that is free.")] = 8080,
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "127.0.0.1",
    operate: Annotated[
        bool, typer.Option("--operate", help="Offer what the role of the database may do; without it, only look.")
    ] = False,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="Who knows what stands in it may look; else GENDURABLE_DASHBOARD_TOKEN."),
    ] = None,
    user_header: Annotated[
        str | None,
        typer.Option("--user-header", help="The header in which a proxy says who it is.", metavar="NAME"),
    ] = None,
    trust: Annotated[
        list[str] | None, typer.Option("--trust", help="Addresses of such proxies; by default this machine.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="A name under which browsers may ask for it; several times.")
    ] = None,
    prefix: Annotated[str, typer.Option("--prefix", help="The path that a proxy puts before: /jobs.")] = "",
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            help="A list that is offered by a name: 'Stuck orders=fsm=order&stuck_for=10m'; several times.",
            metavar="NAME=QUERY",
        ),
    ] = None,
    refresh: Annotated[str, typer.Option("--refresh", help="How often pages look again.", metavar="TIME")] = "2s",
) -> None:
    """Serve a dashboard for browsers until Ctrl-C."""
    try:
        import uvicorn

        from ..web import app
    except ImportError as error:
        raise Refused("the dashboard needs more packages", hint="pip install 'gendurable_py[cli,web]'") from error
    token = _token(token_file)
    local = _is_local(host)
    if not local and token is None and user_header is None:
        raise typer.BadParameter(
            f"{host} can be reached from elsewhere: say who may look, by --token-file, GENDURABLE_DASHBOARD_TOKEN or "
            "--user-header",
            param_hint="--host",
        )
    if prefix and not (prefix.startswith("/") and not prefix.endswith("/")):
        raise typer.BadParameter("it begins with a slash, and does not end with one", param_hint="--prefix")
    made = app(
        frame.dsn,
        operate=operate,
        token=token,
        user_header=user_header,
        trusted_proxies=_HERE if trust is None else trust,
        # Without a token whoever gets a browser of this machine to ask would be let in.
        hosts=name or ({*_LOCAL, _named(host)} if local and token is None and user_header is None else None),
        filters=dict(_named_filter(text) for text in filters or ()),
        refresh=duration(refresh),
    )
    with _bound(host, port) as listening:
        frame.note(f"http://{_named(host)}:{listening.getsockname()[1]}{prefix}/")
        _serve(uvicorn, _below(made, prefix), listening, made.state.end_streams)


def _token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("GENDURABLE_DASHBOARD_TOKEN") or None
    try:
        found = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint="--token-file") from None
    if not found:
        raise typer.BadParameter(f"{file} is empty", param_hint="--token-file")
    return found


def _named_filter(text: str) -> tuple[str, str]:
    name, found, query = text.partition("=")
    if not (name and found):
        raise typer.BadParameter("say NAME=QUERY, such as 'Failed=status=failed'", param_hint="--filter")
    return name, query


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _named(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise Refused(f"{host} is no address: {error.strerror}") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(100)  # whoever reads where it is may ask at once
    except OSError as error:
        made.close()
        raise Refused(f"cannot listen at {host}:{port}: {error.strerror}", "--port 0 takes one that is free") from None
    return made


def _below(app: Starlette, prefix: str) -> ASGIApp:
    """The app at a path, whether the proxy in front of it leaves that path away or not."""

    async def below(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and prefix:
            path = scope["path"]
            whole = path if path == prefix or path.startswith(prefix + "/") else prefix + path
            scope = {**scope, "root_path": prefix, "path": whole}
        await app(scope, receive, send)

    return below


def _serve(uvicorn: Any, app: ASGIApp, listening: socket.socket, end_streams: Callable[[], None]) -> None:
    class Server(uvicorn.Server):  # type: ignore[misc]
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # it waits for all answers, and pages that are watched never end by themselves
            end_streams()
            super().handle_exit(sig, frame)

    # No log of requests: their paths name what people look for.
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
    )
    Server(config).run(sockets=[listening])
