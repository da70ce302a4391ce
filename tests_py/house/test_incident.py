"""The incident at night of docs/seeing.md, arranged: what its statements answer is what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
from conftest import Database
from support.races import Session, outcome

PAGE = Path(__file__).resolve().parents[2] / "docs" / "seeing.md"
FIRST_ID = 37  # three that fail, 37 to 39; then 40, which is charged, 41 behind it, 42 with its part 43


def story() -> list[tuple[str, str]]:
    """The statements of the page, each block with what is shown behind it: a table, or a quoted row."""
    text = PAGE.read_text("utf-8").split("## An incident at night")[1].split("\n## ")[0]
    parts = re.findall(r"^```sql\n(.*?)^```\n\n(?:```text\n(.*?)^```$|> (.*?)$|)", text, re.MULTILINE | re.DOTALL)
    return [(sql, table or quoted) for sql, table, quoted in parts]


def steady(text: str, pid: int, role: str) -> str:
    """Times, processes and roles are others each time."""
    text = text.replace(f"process {pid} ", "process 4711 ").replace(f'role "{role}"', 'role "ada"')
    return re.sub(r"\b\d+ (s|min|h)\b", "so long", text)


def cell(value: object) -> str:
    """As psql shows it."""
    return "" if value is None else str(value)[0].lower() if isinstance(value, bool) else str(value)


def shown(cursor: psycopg.Cursor[dict[str, object]]) -> list[list[str]]:
    found = []
    while True:
        assert cursor.description is not None
        found.append([column.name for column in cursor.description])
        for row in cursor.fetchall():
            found.append([cell(value) for value in row.values()])
        if not cursor.nextset():
            return found


def read_tables(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line and not set(line) <= set("-+")]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


@pytest.fixture
def night(db: Database) -> tuple[Session, Session]:
    worker, ada = Session(db, "w1"), Session(db, "ada")
    worker.conn.execute(f"alter sequence gendurable.instance_id_seq restart with {FIRST_ID}".encode())
    orders = {"fsm": "checkout", "queue": "checkout"}
    for order in (7, 8, 9):
        worker.insert(**orders, step="pay")
        claim = worker.claim_one("checkout")
        assert worker.commit(outcome(claim, "stop", reason=f"order {order} has no address")) == ["ok"]
    charged = worker.insert(**orders, step="charge", partition_key="customer:7")
    assert worker.claim_one("checkout")["id"] == charged
    behind = worker.insert(**orders, step="ship", partition_key="customer:7")
    parent = worker.insert(**orders, step="pack", priority=-1)
    part = {**orders, "step": "ship", "partition_key": "customer:7"}
    claim = worker.claim_soon("checkout")[0]
    assert claim["id"] == parent
    assert worker.commit(outcome(claim, "schedule_childs", step="join", childs=[part])) == ["ok"]
    assert worker.claim(10, "checkout") == []
    assert (charged, behind, parent) == (40, 41, 42)
    # all of that was 25 minutes ago, and the worker has died since
    worker.conn.execute(
        "update gendurable.instance set updated_at = updated_at - interval '25 minutes', "
        "eligible_at = eligible_at - interval '25 minutes', lane_at = lane_at - interval '25 minutes', "
        "lease_expires_at = lease_expires_at - interval '25 minutes', "
        "claim_no = case when id = 40 then claim_no - 1500000000 else claim_no end"
    )
    ada.conn.execute("set application_name = 'psql'")
    ada.begin().rows("select * from gendurable.instance where id = 40 for update")
    return worker, ada


def test_the_incident(night: tuple[Session, Session]) -> None:
    worker, ada = night
    pid, role = ada.conn.info.backend_pid, ada.conn.info.user
    told = story()
    assert len(told) == 5
    for number, (statements, answer) in enumerate(told):
        if number == 3:
            assert worker.one("select pg_terminate_backend(%s, 10000)", pid)
        rows = shown(worker.conn.execute(statements.encode()))
        if answer.startswith("children: "):
            assert rows[0] == ["cause", "message"]
            said = "\n".join(f"{cause}: {message}" for cause, message in rows[1:])
            assert steady(said, pid, role) == steady(answer, pid, role)
        else:
            assert rows == read_tables(answer), statements
