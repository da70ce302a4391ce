"""pg_cron calls gd_run: with nothing else running, in both of its modes; and a report that it makes.

Its jobs are of the schedule `@reboot`, and the server is restarted: they run at once, where a minute would be long.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.server import FAST, ROOT, installations
from support.wait import wait_until

import gendurable_py as gd
from examples import nightly
from gendurable_py.embedded.cluster import Cluster, Installation
from gendurable_py.embedded.places import server_user, temporary_folder
from gendurable_py.install import extension_files

Conn = psycopg.Connection[Any]


WORK = """
create table worked (id bigint);
create function work(ctx jsonb) returns jsonb language plpgsql as $$
begin
    insert into worked values ((ctx ->> 'id')::bigint);
    return '{"kind": "done"}';
end $$;
select gd_define_step('cron.work', 'start', 'work(jsonb)');
"""


def files() -> tuple[Installation, Path, list[Path]]:
    """A PostgreSQL, the folder of a pg_cron for it, and the extension's files.

    GENDURABLE_TEST_PG_CRON names the root of a package that is unpacked and not installed (dpkg -x ... FOLDER).
    """
    root = Path(os.environ.get("GENDURABLE_TEST_PG_CRON", "/"))
    for installation in installations():
        library = root / installation.pkglibdir.relative_to("/") / "pg_cron.so"
        extension = root / installation.sharedir.relative_to("/") / "extension"
        if library.exists():
            return installation, library, sorted(extension.glob("pg_cron*"))
    pytest.skip("needs pg_cron: apt-get install postgresql-15-cron, or GENDURABLE_TEST_PG_CRON=... (see files())")


@pytest.fixture(scope="module", params=["libpq", "background workers"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A server with gendurable and pg_cron in its database postgres; pg_cron's library is not installed in it."""
    installation, library, extension = files()
    user = server_user()
    folder = temporary_folder(user, "gd-cron-", plain=True)
    (folder / "lib").mkdir()
    shutil.copy(library, folder / "lib")
    # The name alone, to be found in dynamic_library_path: it is the copy, wherever the package is.
    for file in extension:
        (folder / file.name).write_text(file.read_text().replace("$libdir/pg_cron", "pg_cron"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
        if user is not None:
            shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
    settings = {
        **FAST,
        "unix_socket_directories": str(folder),
        "dynamic_library_path": f"{folder / 'lib'}:$libdir",
        "shared_preload_libraries": "pg_cron",
        "cron.host": str(folder),
        "cron.use_background_workers": "on" if request.param == "background workers" else "off",
        "max_worker_processes": "20",
    }
    try:
        with Cluster(
            installation, extension_files=[*extension_files(), *folder.glob("pg_cron*")], settings=settings
        ) as cluster:
            with psycopg.connect(cluster.dsn, autocommit=True) as conn:
                conn.execute("create extension pg_cron; create extension gendurable")
                conn.execute(WORK)
            yield cluster
    finally:
        shutil.rmtree(folder)


def told(conn: Conn, command: str) -> tuple[str, str]:
    """What pg_cron says of the last run of that job, once it is over."""
    query = "select status, return_message from cron.job_run_details where command = %s order by runid desc limit 1"

    def over() -> tuple[str, str] | None:
        row = conn.execute(query, (command,)).fetchone()
        return None if row is None or row[0] not in ("succeeded", "failed") else (row[0], row[1])

    found = wait_until(over, 30)
    assert found is not None
    return found


@pytest.fixture
def conn(cluster: Cluster) -> Iterator[Conn]:
    with psycopg.connect(cluster.dsn, autocommit=True) as conn:
        yield conn


def reboot(cluster: Cluster, conn: Conn, *commands: str) -> Conn:
    """Have pg_cron run the commands at once; answers a connection to the server that has come back."""
    conn.execute("delete from cron.job; delete from cron.job_run_details")
    for command in commands:
        conn.execute("select cron.schedule('@reboot', %s)", (command,))
    conn.close()
    cluster.restart()
    return psycopg.connect(cluster.dsn, autocommit=True)


def statuses(conn: Conn, ids: list[int | None]) -> set[tuple[str, int]]:
    return set(conn.execute("select status, attempt from gd_instances where id = any(%s)", (ids,)).fetchall())


def test_it_runs_steps(cluster: Cluster, conn: Conn) -> None:
    ids = [gd.insert(conn, "cron.work") for _ in range(300)]
    with reboot(cluster, conn, "call gd_run()") as after:
        assert told(after, "call gd_run()")[0] == "succeeded"
        assert statuses(after, ids) == {("done", 0)}
        worked = after.execute("select count(*), count(distinct id) from worked where id = any(%s)", (ids,))
        assert worked.fetchone() == (300, 300)


def test_the_call_has_to_be_the_whole_command(cluster: Cluster, conn: Conn) -> None:
    """Two statements are one transaction, in which gd_run cannot commit: nothing has happened."""
    ids = [gd.insert(conn, "cron.work", queue="whole") for _ in range(3)]
    command = "set work_mem = '8MB'; call gd_run('whole')"
    with reboot(cluster, conn, command) as after:
        status, message = told(after, command)
        assert status == "failed" and "invalid transaction termination" in message
        assert statuses(after, ids) == {("runnable", 0)}
        # What belongs to the call is an argument of it.
        call = "call gd_run('whole', p_options => '{\"batch\": 2}')"
        with reboot(cluster, after, call) as then:
            assert told(then, call)[0] == "succeeded"
            assert statuses(then, ids) == {("done", 0)}


async def test_the_nightly_report_is_made_by_it(cluster: Cluster, conn: Conn) -> None:
    """The whole of examples/nightly.sql: the steps that fail are tried again, and all is counted once."""
    conn.execute(nightly.SCHEMA)
    scheduled = "select schedule, command from cron.job where jobname = 'nightly report'"
    assert conn.execute(scheduled).fetchone() == ("* * * * *", "call gd_run('reports')")
    async with await psycopg.AsyncConnection.connect(cluster.dsn, autocommit=True) as other:
        await nightly.sell(other)
        ids = await nightly.nights(other)
    # An error waits for a second: it looks again.
    with reboot(cluster, conn, "call gd_run('reports', p_for => '1 minute')") as after:
        wait_until(lambda: {status for status, _ in statuses(after, list(ids))} == {"done"}, 30)
    async with await psycopg.AsyncConnection.connect(cluster.dsn, autocommit=True) as other:
        assert sum((await nightly.verify(other)).values()) == sum(range(1, 101))


@pytest.mark.parametrize("page", ["operations.md", "sql-steps.md"])
def test_the_jobs_of_the_documentation(cluster: Cluster, conn: Conn, page: str) -> None:
    """Each is accepted as it stands, and then run at once."""
    lines = re.findall(r"^select cron\.schedule\(.*?\);$", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE)
    assert lines
    conn.execute("delete from cron.job")
    for line in lines:
        conn.execute(line.encode())
    made = [row[0] for row in conn.execute("select command from cron.job where schedule = '* * * * *'")]
    assert len(made) == len(lines)
    with reboot(cluster, conn, *made) as after:
        assert [told(after, command)[0] for command in made] == ["succeeded"] * len(made)
