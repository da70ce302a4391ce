"""Steps in SQL: what their function writes is there exactly if the transition is, or the error that it returned."""

from __future__ import annotations

from typing import Any

from support.model import Change
from support.model_leases import Leases
from support.model_row import Row
from support.model_workers import LEASE

# What a step is to return stands in a table, and that it ran in another one.
SCHEMA = """
create schema plan;
create table plan.outcome (id bigint, claim_no bigint, outcome jsonb);
create table plan.effect (id bigint, claim_no bigint);
create function plan.step(ctx jsonb) returns jsonb language plpgsql as $$
declare
    v_outcome jsonb;
begin
    insert into plan.effect values ((ctx -> 'id')::bigint, (ctx -> 'claim_no')::bigint);
    select o.outcome into v_outcome
    from plan.outcome o
    where o.id = (ctx -> 'id')::bigint and o.claim_no = (ctx -> 'claim_no')::bigint;
    if v_outcome ->> 'kind' = 'raise' then
        raise exception 'as it was planned';
    end if;
    return v_outcome;
end $$;
"""
PLAN = """
insert into plan.outcome select * from jsonb_to_recordset(%s) as x (id bigint, claim_no bigint, outcome jsonb)
returning id
"""
EFFECTS = "select id, claim_no from plan.effect"
DEFINE = "select gd_define_step('m', %s, %s::regprocedure, jsonb_build_object('queue', %s::text))"
RUN = """
select * from gd_run_claims(%s, %s::jsonb, '{"budget_ms": 60000}')
"""


class Steps(Leases):
    def run_claims(self) -> None:
        name, count = self.chance.choice([self.some_worker(), self.some_worker()]), self.chance.randint(1, 4)
        held = self.held(name)
        if not held:
            return
        chosen = self.chance.sample(held, min(count, len(held)))
        planned = [self.outcome(*claim) for claim in chosen]
        for one in planned:
            if self.chance.once_in(8):
                one.clear()
                one |= {"kind": "raise"}
        self.run_now(name, chosen, planned)

    def run_now(self, name: str, chosen: list[tuple[int, int]], planned: list[dict[str, Any]]) -> None:
        admin = self.world.admin
        rows = [self.model.rows.get(number) for number, _ in chosen]
        known = {row.step for row in rows if row is not None and not self.chance.once_in(8)}
        admin.execute("delete from gendurable.step")
        admin.execute("truncate plan.outcome, plan.effect")
        for step in sorted(known | set(self.model.routes)):
            queue = self.model.routes.get(step)
            handler = "plan.step(jsonb)" if step in known else None
            admin.execute(DEFINE, (step, handler, queue))
        plans = [{"id": n, "claim_no": c, "outcome": one} for (n, c), one in zip(chosen, planned, strict=True)]
        self.world.ask(self.world.client, PLAN, plans)
        answers, change = self.world.ask(self.world.workers[name], RUN, name, [list(claim) for claim in chosen])
        assert [(a["id"], a["claim_no"]) for a in answers] == chosen
        if len(chosen) > 1 or self.open:
            self.contested()
        effects = [tuple(row) for row in admin.execute(EFFECTS).fetchall()]
        # what fails in company is left, and nothing of it has happened
        troubled = any(one["kind"] == "raise" or self.bad(one) for one in planned) or bool(self.open)
        for claim, row, one, got in zip(chosen, rows, planned, answers, strict=True):
            happened = self.ran(row, claim, one, got, known, change, troubled)
            assert effects.count(claim) == happened, (claim, one, got, effects)
        change.apply()

    def ran(
        self,
        row: Row | None,
        claim: tuple[int, int],
        planned: dict[str, Any],
        got: dict[str, Any],
        known: set[str],
        change: Change,
        troubled: bool,
    ) -> bool:
        """Follow one of the answers; whether its function has left an effect."""
        result = got["result"]
        live = row is not None and row.status == "executing" and row.claim_no == claim[1]
        over = row.over(change.now) if row is not None else False
        fails = planned["kind"] == "raise" or self.bad(planned)
        if not live or over or (over is None and result == "stale"):
            assert result == "stale", (planned, got)
            return False
        assert row is not None
        if row.step not in known:
            assert result == "no_handler", (planned, got)
            return False
        if result in ("left", "busy"):
            assert troubled, (planned, got)
            assert result == "left" or self.open, (planned, got)
            return False
        if fails:
            assert result == "error", (planned, got)
            change.commit({"id": row.id, "kind": "error", "error": "raised"}, [], None, LEASE)
            return False
        assert result == ("error" if planned["kind"] == "error" else "ok"), (planned, got)
        children: list[int | None] = []
        # the order in which they were run tells who has got a unique key
        contested = bool(self.loose)
        outcome = {key: value for key, value in planned.items() if key != "keep"}
        if outcome["kind"] == "schedule_childs":
            children = self.created(row, outcome["childs"], change, contested)
        change.commit(outcome, children, None, LEASE)
        self.empty_outboxes([outcome], change, self.world.client, contested)
        return True
