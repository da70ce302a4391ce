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
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode

from .places import as_user, closed_to, server_user, temporary_folder

SUPERUSER = "postgres"
PORT = 5432
# For a start or a stop, in seconds.
PATIENCE = 120
# The variables by which libpq would go elsewhere, or not in, although user, host, port and database are given; and
# what undoes each of them.
_DIVERTING = {
    "PGHOSTADDR": ("hostaddr", ""),
    "PGSSLMODE": ("sslmode", "disable"),
    "PGGSSENCMODE": ("gssencmode", "disable"),
    "PGCHANNELBINDING": ("channel_binding", "disable"),
    "PGREQUIREPEER": ("requirepeer", ""),
    "PGTARGETSESSIONATTRS": ("target_session_attrs", "any"),
}
# The same; but not each libpq knows these.
_DIVERTING_NEW = {
    "PGREQUIREAUTH": ("require_auth", ""),
    "PGSSLNEGOTIATION": ("sslnegotiation", "postgres"),
}

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
        # A checkout, a virtual environment and the umask may be closed to others, and the server runs as another user
        # than their owner.
        for folder, _, names in os.walk(into):
            for path in (Path(folder), *(Path(folder, name) for name in names)):
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
        return type(self)(moved(self.bindir), moved(self.sharedir), moved(self.pkglibdir), into)


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
        self._user = server_user()
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._run_dir: Path | None = None
        self._pid = os.getpid()
        self._temporary = path is None
        if path is None:
            self._path = temporary_folder(self._user, "gendurable-", scratch)
        else:
            self._path = Path(path).resolve()
            self._make_path()
        self.bindir = installation.bindir
        self.data_dir = self._path / "data"
        self.log_path = self._path / "server.log"
        self._socket_dir, self._port = Path(), PORT
        try:
            with self._locked():
                if self._postmaster() is not None:
                    self._join()
                else:
                    self._create()
                    self._launch()
        except BaseException:
            self.stop()
            raise

    def dsn_of(self, database: str) -> str:
        """A superuser's connection string, which leads to this server whatever PGHOSTADDR and its like say."""
        # With a service nobody knows what else is set.
        given = _DIVERTING if "PGSERVICE" in os.environ else {}
        undone = {**given, **{name: how for name, how in (_DIVERTING | _DIVERTING_NEW).items() if os.environ.get(name)}}
        options = urlencode([("host", os.fsencode(self._socket_dir)), *undone.values()], safe="/", quote_via=quote)
        return f"postgresql://{SUPERUSER}@:{self._port}/{quote(database, safe='')}?{options}"

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
            self._halt(signal.SIGINT)
        self._forget()

    def kill(self) -> None:
        """Stop it as a power cut would: nothing is flushed, and the next start recovers from the log."""
        self._halt(signal.SIGQUIT)

    def restart(self) -> None:
        """Stop it, unless it was killed, and start it again. Clients are disconnected; the dsn stays the same."""
        with self._locked():
            self._halt(signal.SIGINT)
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

    def _make_path(self) -> None:
        """The directory that the caller named, and those above it, in which the server's user has a data directory."""
        if "\n" in str(self._path):
            raise ValueError(f"a data directory's path has no line breaks: {str(self._path)!r}")
        for folder in reversed((self._path, *self._path.parents)):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                if self._user is not None:
                    folder.chmod(0o755)
        closed = closed_to(self._user, reversed((self._path, *self._path.parents)))
        if closed is not None:
            raise PermissionError(
                f"the server runs as the user {self._user}, who cannot enter {closed}: "
                f"name another path than {self._path}, or chmod o+x {closed}"
            )

    def _command(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        # The server itself reads some of the variables that are meant for clients, such as PGPORT and PGDATESTYLE.
        environment = {name: value for name, value in os.environ.items() if not re.fullmatch("PG[A-Z]+", name)}
        # Never a pipe: the server would inherit it, and reading would wait for the server's end.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [self.bindir / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=environment | {"PGDATA": str(self.data_dir)},
                check=False,
                **as_user(self._user),
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

    def _postmaster(self) -> int | None:
        """The process of the running server."""
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text(errors="replace").partition("\n")[0])
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        # After a crash of the machine the number may be another's, and in a container a dead process may stay listed.
        try:
            return pid if os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(self.data_dir) else None
        except PermissionError:
            return pid
        except FileNotFoundError:
            return None if os.path.exists("/proc/self/cwd") else pid

    def _join(self) -> None:
        lines = (self.data_dir / "postmaster.pid").read_text(errors="surrogateescape").split("\n")
        self._port, self._socket_dir = int(lines[3]), Path(lines[4])

    def _create(self) -> None:
        # A directory that the caller named is not given away, only what the server writes.
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        self.log_path.touch()
        for mine in (self.data_dir, self.log_path):
            self._own(mine)
        if self._run_dir is None:
            self._run_dir = temporary_folder(self._user, "gd-", plain=True)
            # pg_ctl hands the log's name to a shell, and this one is plain.
            (self._run_dir / "server.log").symlink_to(self.log_path)
            self.bindir = self._view(self._run_dir / "pgsql")
        if not (self.data_dir / "PG_VERSION").exists():
            quick = ["--no-sync"] if self._settings.get("fsync") == "off" else []
            options = ["--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", *quick]
            self._must("initdb", *options)
        kept = (self.data_dir / "PG_VERSION").read_text().strip()
        if kept != str(self._installation.major):
            raise RuntimeError(f"{self.data_dir} is of PostgreSQL {kept}, the server is {self._installation.major}")

    def _view(self, into: Path) -> Path:
        source = self._installation
        # A virtual environment below /root cannot be entered by the server's user: then the files are copied.
        needed = (source.bindir / "postgres", source.pkglibdir, source.sharedir, *source.libraries)
        seen = closed_to(self._user, needed) is None
        return source.view(into, self._extension_files, link=seen).bindir

    def _launch(self) -> None:
        if self._run_dir is None:
            self._create()
        assert self._run_dir is not None
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._run_dir),
            "port": str(PORT),
            **self._settings,
        }
        # A shell reads them, and a data directory's name may have quotes as well.
        options = ["-D", str(self.data_dir), *(f"-c{name}={value}" for name, value in settings.items())]
        program, log = self.bindir / "postgres", self._run_dir / "server.log"
        waits = ("-w", "-t", str(PATIENCE))
        self._must("pg_ctl", "start", "-s", *waits, "-o", shlex.join(options), "-p", program, "-l", log)
        self._join()
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

    def _halt(self, how: signal.Signals) -> None:
        pid = self._postmaster()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        late = time.monotonic() + PATIENCE
        while self._postmaster() == pid:
            if time.monotonic() > late:
                raise RuntimeError(f"the server in {self._path} did not stop within {PATIENCE} s")
            time.sleep(0.01)

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
