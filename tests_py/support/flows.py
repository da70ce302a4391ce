"""Help for tests of flows: workers that are killed at boundaries, what was written down, and what that has to be.

A worker is a process that a fork server makes: `serving(dsn, folder, queue, kill_at=17)` serves the flow
`support.flow_whole` in a queue of its own and kills itself, by SIGKILL, at the seventeenth boundary that it meets.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psycopg

# What was ever written to journals: what a commit has taken back is not here, and nothing else is missing.
WATCH = """
create table public.journal_log (
    n bigint generated always as identity, xid text not null default pg_current_xact_id()::text,
    what text not null, id bigint not null, seq int not null, entry jsonb not null);
create function public.note_journal() returns trigger language plpgsql as $$
begin
    insert into public.journal_log (what, id, seq, entry)
    select tg_op, (r).instance_id, (r).seq, (r).entry
    from (select case tg_op when 'DELETE' then old else new end as r) x;
    return null;
end $$;
create trigger note after insert or update or delete on gendurable.journal
for each row execute function public.note_journal();
"""


def watch_journals(conn: psycopg.Connection[Any]) -> None:
    conn.execute(WATCH)


def changed_entries(conn: psycopg.Connection[Any]) -> list[str]:
    """Entries that were committed and changed, vanished or came twice. A restart drops them all, and begins anew; so
    does a retry with a new state, and any other drops what stands from the checkpoint on that had failed."""
    found: list[str] = []
    there: dict[int, dict[int, Any]] = defaultdict(dict)
    commits: dict[tuple[str, int], list[tuple[str, int, Any]]] = {}
    for xid, what, id, seq, entry in conn.execute(
        "select xid, what, id, seq, entry from public.journal_log order by n"
    ):
        commits.setdefault((xid, id), []).append((what, seq, entry))
    for (_, id), rows in commits.items():
        journal = there[id]
        gone = {seq for what, seq, _ in rows if what == "DELETE"}
        if gone and gone != journal.keys() and gone != _cut_of(journal):
            found.append(f"{id}: {sorted(gone)} vanished of {journal}")
        for what, seq, entry in rows:
            if what == "DELETE":
                journal.pop(seq, None)
            elif what == "INSERT" and seq == len(journal) + 1:
                journal[seq] = entry
            else:
                found.append(f"{id}: {what} of entry {seq}: {entry}")
        if gone and journal and not (journal.keys() == {1} or journal[len(journal)] == {"k": "retried"}):
            found.append(f"{id}: {sorted(gone)} vanished, and neither a restart nor a retry stands there")
    now: dict[int, dict[int, Any]] = defaultdict(dict)
    for id, seq, entry in conn.execute("select instance_id, seq, entry from gendurable.journal"):
        now[id][seq] = entry
    same = now == {id: journal for id, journal in there.items() if journal}
    return found + ([] if same else ["the journals are not what was written"])


def _cut_of(journal: dict[int, Any]) -> set[int]:
    """What a retry drops: the end, and where a checkpoint has failed it, all from that one on."""
    last = journal.get(len(journal), {})
    if last.get("k") != "end":
        return set()
    return set(range(last.get("failed") or len(journal), len(journal) + 1))


def journal_of(conn: psycopg.Connection[Any], id: int | None) -> list[dict[str, Any]]:
    """Its entries, as they are stored."""
    rows = conn.execute("select entry from gendurable.journal where instance_id = %s order by seq", (id,))
    return [entry for (entry,) in rows]


def kinds_of(conn: psycopg.Connection[Any], id: int | None) -> list[str]:
    return [str(entry["k"]) for entry in journal_of(conn, id)]


def expire(conn: psycopg.Connection[Any]) -> None:
    """Every lease ends now, as those of dead workers do."""
    conn.execute(
        "update gendurable.instance set lease_expires_at = clock_timestamp() - interval '1 second' "
        "where status = 'executing'"
    )
    conn.execute("select gd_reap()")


# What a process writes down: its boundaries, and the effects of steps


class Lines:
    """A file of JSON lines. A line is one write, so a killed process leaves whole ones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **line: Any) -> None:
        os.write(self._file, (json.dumps(line) + "\n").encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


effects: Lines | None = None


def effects_path() -> Path:
    assert effects is not None
    return effects.path


def effect(id: int, round: int, name: str, *given: Any) -> Any:
    """What a step does to the world: a line in a file."""
    assert effects is not None
    effects.write(id=id, round=round, name=name, given=given, by=os.getpid())
    return [name, *given]


def run_more_than_once(lines: list[dict[str, Any]]) -> Counter[int]:
    """How often steps of each flow ran again."""
    ran = Counter((line["id"], line["round"], line["name"]) for line in lines)
    again: Counter[int] = Counter()
    for (id, _, _), times in ran.items():
        again[id] += times - 1
    return again


def told_different_things(lines: list[dict[str, Any]]) -> list[str]:
    """Steps that ran again, and were given something else."""
    given: dict[tuple[int, int, str], set[str]] = defaultdict(set)
    for line in lines:
        given[line["id"], line["round"], line["name"]].add(json.dumps(line["given"]))
    return [f"{step}: {sorted(values)}" for step, values in given.items() if len(values) > 1]


# Boundaries


class Boundaries:
    """Counts them in this process, and kills it at one."""

    def __init__(self, lines: Lines, kill_at: int | None) -> None:
        self._lines = lines
        self._left = kill_at
        self._count = 0

    def meet(self, what: str) -> None:
        self._count += 1
        self._lines.write(boundary=self._count, what=what, by=os.getpid())
        if self._count == self._left:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str, before: str | None, after: str | None = None, of: Any = None) -> None:
        """Meet boundaries around a method, where ``of`` says that it is about a flow."""
        method = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            concerned = of is None or of(*args)
            if before and concerned:
                self.meet(before)
            got = method(*args, **kwargs)
            if after and concerned:
                self.meet(after)
            return got

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            concerned = of is None or of(*args)
            if before and concerned:
                self.meet(before)
            got = await method(*args, **kwargs)
            if after and concerned:
                self.meet(after)
            return got

        setattr(owner, name, awaited if _is_async(method) else watched)


def _is_async(method: Callable[..., Any]) -> bool:
    return bool(method.__code__.co_flags & 0x80)


def watch_boundaries(boundaries: Boundaries) -> None:
    """Where a flow passes from one thing to the next, in this process."""
    from gendurable_py.dispatch.committer import Committer
    from gendurable_py.dispatch.flowing import Flows
    from gendurable_py.dispatch.journals import Journals
    from gendurable_py.flow.run import Run
    from gendurable_py.flow.waiting import StepCall

    def flows_in(_: Any, __: Any, batch: list[Any]) -> bool:
        return any(work.flow is not None for work in batch)

    boundaries.around(Journals, "begin", "claimed")
    boundaries.around(Flows, "prepare", None, "journal read")
    boundaries.around(Run, "settle", None, "handed out", lambda run, *_: run.hand_out is None and not run.replaying)
    boundaries.around(StepCall, "run_here", "before a sync step")
    boundaries.around(Flows, "_begin", "before an async step")
    boundaries.around(StepCall, "keep", "after its effect")
    boundaries.around(Run, "step_ended", "step ended")
    boundaries.around(Committer, "_send", "before a commit", "after a commit", flows_in)
    boundaries.around(Run, "committed", "kept")
    boundaries.around(Run, "clear_away", "suspended")


# Workers


def _serve(dsn: str, folder: str, queue: str, kill_at: int | None) -> None:
    global effects
    from support import flow_whole

    from gendurable_py import Engine

    effects = Lines(Path(folder) / "effects")
    watch_boundaries(Boundaries(Lines(Path(folder) / f"boundaries {queue[:40]}"), kill_at))
    Engine(
        dsn,
        machines=[flow_whole.whole, flow_whole.double],
        queues=dict.fromkeys(queue.split(","), 5),
        reap_interval=0.2,
        poll_interval=0.2,
    ).run()


_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["support.flow_whole"])


@contextmanager
def serving(dsn: str, folder: Path, queue: str, kill_at: int | None = None) -> Iterator[BaseProcess]:
    """A worker for this queue, until the end of the block or its own."""
    process = _context.Process(target=_serve, args=(dsn, str(folder), queue, kill_at), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(10)
        if process.exitcode is None:
            process.kill()
            process.join()
