"""A small TCP proxy in front of the server, to cut, to silence and to lose what is said."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo


class Proxy:
    """Forwards to the server of a dsn. `dsn` is the way through it.

    lose_answer_to(text): the next message that contains the text reaches the server; its answer does not come back,
    the connection ends instead. silence(): whatever is said from now on goes nowhere, until `heal`. `said` is what
    clients have said since `listen`, a list of bytes a connection.
    """

    def __init__(self, dsn: str) -> None:
        self._target = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.dsn = make_conninfo(
            dsn, host="127.0.0.1", hostaddr="", port=self._listener.getsockname()[1], sslmode="disable"
        )
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lost: bytes | None = None
        self._open = threading.Event()
        self._open.set()
        self.refusing = False
        self.answers_lost = 0
        self.said: list[bytearray] = []
        self._listening = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: Any) -> None:
        self._listener.close()
        self._open.set()
        self.cut()

    def lose_answer_to(self, text: bytes) -> None:
        self._lost = text

    def listen(self) -> None:
        self._listening = True

    def silence(self) -> None:
        self._open.clear()

    def heal(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """End all connections now."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self._end(pair)

    @staticmethod
    def _end(pair: tuple[socket.socket, socket.socket]) -> None:
        for side in pair:
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _close(self, pair: tuple[socket.socket, socket.socket], pumps: list[threading.Thread]) -> None:
        """Once nobody reads any more: the number of a descriptor is given away again at once."""
        for pump in pumps:
            pump.join()
        with suppress(ValueError):
            self._pairs.remove(pair)
        for side in pair:
            side.close()

    def _connect(self) -> socket.socket:
        host, port = self._target.get("host") or "localhost", int(self._target.get("port") or 5432)
        if host.startswith("/"):
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(f"{host}/.s.PGSQL.{port}")
            except OSError:
                server.close()
                raise
            return server
        return socket.create_connection((host, port))

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            try:
                pair = (client, self._connect())
            except OSError:
                client.close()
                continue
            self._pairs.append(pair)
            doomed = threading.Event()
            pumps = [
                threading.Thread(target=self._pump, args=(source, sink, pair, doomed), daemon=True)
                for source, sink in (pair, pair[::-1])
            ]
            for pump in pumps:
                pump.start()
            threading.Thread(target=self._close, args=(pair, pumps), daemon=True).start()

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        pair: tuple[socket.socket, socket.socket],
        doomed: threading.Event,
    ) -> None:
        said = bytearray()
        if source is pair[0] and self._listening:
            self.said.append(said)
        with suppress(OSError):
            while data := source.recv(65536):
                self._open.wait()
                said += data if self._listening else b""
                if source is pair[0] and self._lost is not None and self._lost in data:
                    self._lost = None
                    doomed.set()
                if source is pair[1] and doomed.is_set():
                    # The server has answered, so it has done what it was asked.
                    self.answers_lost += 1
                    break
                sink.sendall(data)
        self._end(pair)
