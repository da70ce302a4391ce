"""The endpoint of a worker: `/metrics`, `/health` and `/ready`, as a WSGI application, and a small server for it.

The server has threads of its own, answers 16 requests at once, and gives each 30 seconds. Where one more comes, whoever
has not yet said what it wants makes room for it, the oldest one of the address that has the most; else one that takes
its answer for longer than 5 seconds. So whoever asks slowly, or never ends to ask, keeps nobody else out, and the
engine does not notice at all. Scrapes have half of the room, so that slow collectors leave some for the probes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from .._log import logger
from .collector import Probed

_MOST_REQUESTS = 16
_MOST_SCRAPES = 8
# Those of requests that were made to end, and have not yet, are some of them.
_MOST_THREADS = 32
_PATIENCE = 30.0
_BRIEF = 5.0
_SILENCE = 10.0
_LOOK = 0.5
_ROUTES = ("/metrics", "/health", "/ready")

Report = tuple[bool, bool, dict[str, Any]]
"""What the probes answer: live, ready, and about it, as JSON with the reasons."""
App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def probe(engines: Iterable[Probed]) -> Report:
    """How these engines are doing, as one; none is as good as one that does not run."""
    states = [engine.health() for engine in engines]
    # An error of the server goes on with its details, which may quote a row; the log has them.
    reasons = [reason.partition("\n")[0] for state in states for reason in state.reasons]
    if not states:
        reasons.append("it has no engine")
    live = bool(states) and all(state.live for state in states)
    ready = bool(states) and all(state.ready for state in states)
    each = [{"worker": state.worker, "state": state.state, "held": state.held} for state in states]
    return live, ready, {"live": live, "ready": ready, "reasons": reasons, "engines": each}


def make_app(registry: CollectorRegistry, ask: Callable[[], Report]) -> App:
    """The application. An error in it is an answer with the status 500, and is logged."""
    metrics: App = make_wsgi_app(registry)
    scrapes = threading.BoundedSemaphore(_MOST_SCRAPES)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = "/" + str(environ.get("PATH_INFO", "")).strip("/")
        method = environ.get("REQUEST_METHOD", "GET")
        headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        try:
            if method not in ("GET", "HEAD"):
                status, body = "405 Method Not Allowed", {"error": "GET or HEAD"}
                headers.append(("Allow", "GET, HEAD"))
            elif path == "/metrics":
                if scrapes.acquire(blocking=False):
                    try:
                        answer = list(metrics({**environ, "REQUEST_METHOD": "GET"}, start_response))
                    finally:
                        scrapes.release()
                    return answer if method == "GET" else []
                status, body = "503 Service Unavailable", {"error": f"{_MOST_SCRAPES} others are being answered"}
            elif path in _ROUTES:
                live, ready, body = ask()
                well = live if path == "/health" else ready
                status = "200 OK" if well else "503 Service Unavailable"
            else:
                status, body = "404 Not Found", {"error": "there is " + ", ".join(_ROUTES)}
        except Exception as error:  # noqa: BLE001 - whoever asks gets an answer
            logger.exception("%s cannot be answered", path)
            status, body = "500 Internal Server Error", {"error": type(error).__name__}
        text = json.dumps(body).encode() + b"\n"
        start_response(status, [*headers, ("Content-Length", str(len(text)))])
        return [text] if method != "HEAD" else []

    return app


class _Handler(WSGIRequestHandler):
    timeout = _SILENCE
    server: _Server

    def parse_request(self) -> bool:
        found = super().parse_request()
        self.server.heard(self.connection)
        return found

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("metrics: " + format, *args)

    def get_stderr(self) -> Any:
        return _Quiet()


class _Quiet:
    """Where `wsgiref` writes tracebacks of connections that broke off."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """There is nothing to flush."""


@dataclass(slots=True)
class _Asking:
    """A request that is not answered yet."""

    address: bytes
    since: float
    silent: bool = True


def _network(address: str) -> bytes:
    """An address, of IPv6 the network that one machine has."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return (getattr(ip, "ipv4_mapped", None) or ip).packed[:8]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def __init__(self, host: str, port: int) -> None:
        infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, address = infos[0][0], infos[0][4]
        self._spare = threading.BoundedSemaphore(_MOST_THREADS)
        self._open: dict[Any, _Asking] = {}
        super().__init__(address, _Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        # Not that of the base class, which asks the name service who we are.
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._spare.acquire(blocking=False):
            self.shutdown_request(request)
            return
        if not self._make_room():
            self._spare.release()
            self.shutdown_request(request)
            return
        self._open[request] = _Asking(_network(client_address[0]), time.monotonic())
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._open.pop(request, None)
            self._spare.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)
            self._spare.release()

    def heard(self, request: Any) -> None:
        """It has said what it wants."""
        asking = self._open.get(request)
        if asking is not None:
            asking.silent = False

    def _make_room(self) -> bool:
        """Whether there is room for one more; if there is none, one that takes its time makes some."""
        asking = list(self._open.items())
        if len(asking) < _MOST_REQUESTS:
            return True
        silent = [(request, one) for request, one in asking if one.silent]
        if silent:
            each = Counter(one.address for _, one in silent)
            self._end(min(silent, key=lambda item: (-each[item[1].address], item[1].since))[0])
            return True
        request, oldest = min(asking, key=lambda item: item[1].since)
        if time.monotonic() - oldest.since < _BRIEF:
            return False
        self._end(request)
        return True

    def _end(self, request: Any) -> None:
        """Its thread ends by the error of its socket."""
        self._open.pop(request, None)
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def service_actions(self) -> None:
        """Now and then: end what takes too long."""
        limit = time.monotonic() - _PATIENCE
        for request, asking in list(self._open.items()):
            if asking.since < limit:
                self._end(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("metrics: a request of %s failed", client_address, exc_info=True)


class Endpoint:
    """An application on a port, served from `start` to `close`, or as a context manager.

    Raises:
        OSError: the port cannot be had.
    """

    def __init__(self, app: App, host: str, port: int) -> None:
        self._app, self._host = app, host
        self.port = port
        """The port; of 0 the one that was found."""
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it is, without a path."""
        host = self._host if self._host not in ("", "0.0.0.0", "::") else "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def start(self) -> Self:
        """Serve from now on."""
        server = _Server(self._host, self.port)
        server.set_app(self._app)
        self.port = server.server_port
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, args=(_LOOK,), name="gendurable metrics", daemon=True
        )
        _serving.add(self)
        self._thread.start()
        logger.info("metrics at %s/metrics", self.url)
        return self

    def close(self) -> None:
        """Serve no more. Answers that are under way may end."""
        server, self._server = self._server, None
        if server is not None:
            _serving.discard(self)
            server.shutdown()
            server.server_close()

    def leave(self) -> None:
        """In a forked child: the port is the parent's."""
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.socket.close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_serving: weakref.WeakSet[Endpoint] = weakref.WeakSet()


def _leave_all() -> None:
    for endpoint in list(_serving):
        endpoint.leave()


os.register_at_fork(after_in_child=_leave_all)
