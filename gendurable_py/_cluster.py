"""A private PostgreSQL server: started in a directory of its own, stopped with the process that started it.

The server runs from a *view* of an installation: a directory of links to the real files, in which the extension
directory is a real one. So extension files can be added without write access to the installation, and several
processes with different versions of the files never meet. Only the `postgres` program itself is a real file there,
since it finds its own share directory by its resolved path.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SUPERUSER = "postgres"

# Ends the server when the process that started it is gone, however it went: the pipe on stdin then reads end of file.
_WATCHDOG = """
cat >/dev/null
pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) && kill -INT "$pid" &&
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
shift
rm -rf "$@"
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the programs and files of a PostgreSQL are; `prefix` holds them all, `libraries` is what else they load."""

    bindir: Path
    sharedir: Path
    pkglibdir: Path
    prefix: Path
    libraries: tuple[Path, ...] = ()

    @classmethod
    def of(cls, pg_config: str | Path) -> Self:
        """The installation that a pg_config program describes."""
        flags = ("--bindir", "--sharedir", "--pkglibdir")
        said = subprocess.run([pg_config, *flags], check=True, capture_output=True, text=True).stdout.splitlines()
        bindir, sharedir, pkglibdir = (Path(line) for line in said)
        return cls(bindir, sharedir, pkglibdir, Path(os.path.commonpath(said)))

    @property
    def major(self) -> int:
        said = subprocess.run([self.bindir / "postgres", "-V"], check=True, capture_output=True, text=True).stdout
        return int(said.split()[2].partition(".")[0])

    def view(self, into: Path, extension_files: Iterable[Path], *, link: bool) -> Self:
        """Lay out the same installation below `into`, with more extension files; as links, or where not, as copies."""

        def moved(path: Path) -> Path:
            return into / path.relative_to(self.prefix)

        def place(source: Path, target: Path) -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            if link:
                target.symlink_to(source)
            elif source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig"))
            else:
                shutil.copy(source, target)

        for program in self.bindir.iterdir():
            if program.name == "postgres":
                moved(program).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(program, moved(program))
            elif link or program.name in ("initdb", "pg_ctl", "psql", "pg_dump", "pg_restore", "pgbench"):
                place(program, moved(program))
        for source in (self.pkglibdir, *self.libraries):
            place(source, moved(source))
        for source in self.sharedir.iterdir():
            if source.name != "extension":
                place(source, moved(source))
        extensions = moved(self.sharedir) / "extension"
        extensions.mkdir(parents=True)
        for file in (self.sharedir / "extension").iterdir():
            place(file, extensions / file.name)
        for file in extension_files:
            (extensions / file.name).unlink(missing_ok=True)
            (extensions / file.name).write_bytes(file.read_bytes())
            # A checkout may be closed to others, and the server runs as another user than its owner.
            (extensions / file.name).chmod(0o644)
        return type(self)(moved(self.bindir), moved(self.sharedir), moved(self.pkglibdir), into)


def _server_user() -> str | None:
    """PostgreSQL refuses to run as root: then it runs as this system user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody")


class Cluster:
    """One server with its data directory. Usable as a context manager; `path` None means a temporary one in `scratch`.

    A second process that names the same `path` joins the running server, which ends with the process that started it.
    Clients connect through a socket in a directory that only the server's user (and root) can enter.
    """

    def __init__(
        self,
        installation: Installation,
        path: str | os.PathLike[str] | None = None,
        *,
        extension_files: Iterable[Path] = (),
        settings: Mapping[str, str] | None = None,
        scratch: str | None = None,
    ) -> None:
        self._installation = installation
        self._extension_files = list(extension_files)
        self._settings = dict(settings or {})
        self._user = _server_user()
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._run_dir: Path | None = None
        self._pid = os.getpid()
        self._temporary = path is None
        self._path = Path(tempfile.mkdtemp(prefix="gendurable-", dir=scratch)) if path is None else Path(path).resolve()
        self._path.mkdir(parents=True, exist_ok=True)
        self.bindir = installation.bindir
        self.data_dir = self._path / "data"
        self.log_path = self._path / "server.log"
        self._socket_dir = Path()
        try:
            with self._locked():
                if self._running():
                    self._join()
                else:
                    self._create()
                    self._launch()
        except BaseException:
            self.stop()
            raise

    def dsn_of(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}@/{database}?host={self._socket_dir}"

    @property
    def dsn(self) -> str:
        """The superuser's connection string to the database `postgres`."""
        return self.dsn_of("postgres")

    def stop(self) -> None:
        """Stop the server in an orderly way, if this process started it, and remove what was temporary."""
        if self._pid != os.getpid():
            return
        atexit.unregister(self.stop)
        if self._watchdog is not None:
            self._halt("fast")
        self._forget()

    def kill(self) -> None:
        """Stop it as a power cut would: nothing is flushed, and the next start recovers from the log."""
        self._halt("immediate")

    def restart(self) -> None:
        """Stop it, unless it was killed, and start it again. Clients are disconnected; the dsn stays the same."""
        with self._locked():
            if self._running():
                self._halt("fast")
            self._launch()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- below: how

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._path / "lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _command(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        as_user: dict[str, Any] = {}
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        # Never a pipe: the server would inherit it, and reading would wait for the server's end.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [self.bindir / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                check=False,
                **as_user,
            )
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read())

    def _must(self, program: str, *arguments: str | Path) -> None:
        done = self._command(program, *arguments)
        if done.returncode != 0:
            log = self.log_path.read_text(errors="replace")[-2000:] if self.log_path.exists() else ""
            who = f" as user {self._user}" if self._user else ""
            raise RuntimeError(f"{program} in {self._path}{who} failed:\n{done.stdout}{log}".rstrip())

    def _own(self, path: Path) -> None:
        if self._user is not None:
            shutil.chown(path, self._user, pwd.getpwnam(self._user).pw_gid)

    def _running(self) -> bool:
        # Its exit codes: 0 runs, 3 does not, 4 no data directory.
        return self.data_dir.exists() and self._command("pg_ctl", "status", "-D", self.data_dir).returncode == 0

    def _join(self) -> None:
        self._socket_dir = Path((self.data_dir / "postmaster.pid").read_text().splitlines()[4])

    def _create(self) -> None:
        if self._temporary:
            self._own(self._path)
        # A directory that the caller named is not given away, only what the server writes.
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        self.log_path.touch()
        for mine in (self.data_dir, self.log_path):
            self._own(mine)
        if self._run_dir is None:
            self._run_dir = Path(tempfile.mkdtemp(prefix="gd-"))
            self._own(self._run_dir)
            self._socket_dir = self._run_dir
            self.bindir = self._view(self._run_dir / "pgsql")
        if not (self.data_dir / "PG_VERSION").exists():
            quick = ["--no-sync"] if self._settings.get("fsync") == "off" else []
            options = ["--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", *quick]
            self._must("initdb", "-D", self.data_dir, *options)
        kept = (self.data_dir / "PG_VERSION").read_text().strip()
        if kept != str(self._installation.major):
            raise RuntimeError(f"{self.data_dir} is of PostgreSQL {kept}, the server is {self._installation.major}")

    def _view(self, into: Path) -> Path:
        source = self._installation
        entry = pwd.getpwnam(self._user) if self._user else None
        # A virtual environment below /root cannot be entered by the server's user: then the files are copied.
        seen = entry is None or (
            subprocess.run(
                ["test", "-x", source.bindir / "postgres"], check=False, user=entry.pw_uid, group=entry.pw_gid, cwd="/"
            ).returncode
            == 0
        )
        return source.view(into, self._extension_files, link=seen).bindir

    def _launch(self) -> None:
        if self._run_dir is None:
            self._create()
        settings = {"listen_addresses": "", "unix_socket_directories": str(self._socket_dir), **self._settings}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        start: list[str | Path] = [
            "-D",
            self.data_dir,
            "-l",
            self.log_path,
            "-o",
            options,
            "-p",
            self.bindir / "postgres",
        ]
        self._must("pg_ctl", "start", "-w", "-t", "120", "-s", *start)
        if self._watchdog is None:
            doomed = [self._run_dir, *([self._path] if self._temporary else [])]
            self._watchdog = subprocess.Popen(
                ["sh", "-c", _WATCHDOG, "sh", self.data_dir, *(str(path) for path in doomed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
            atexit.register(self.stop)

    def _halt(self, mode: str) -> None:
        if self._running():
            self._must("pg_ctl", "stop", "-w", "-t", "120", "-s", "-D", self.data_dir, "-m", mode)

    def _forget(self) -> None:
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait()
            assert self._watchdog.stdin is not None
            self._watchdog.stdin.close()
            self._watchdog = None
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)
            self._run_dir = None
        if self._temporary:
            shutil.rmtree(self._path, ignore_errors=True)
