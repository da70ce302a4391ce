-- The accounts of the money transfer, and what of it is in SQL: transfer.py plays it.

create table account (id int primary key, balance int not null check (balance >= 0));
-- No key on purpose: what was booked twice, or sent twice, would stand here twice.
create table booking (transfer bigint not null, account int not null references account, amount int not null);
create table receipt (transfer bigint not null, amount int not null);
-- How often a step "move" has run: what a sequence has given out is not undone.
create sequence move_run;

-- Step "move": both legs, or none where the source is not covered.
create function bank_move(ctx jsonb) returns jsonb language plpgsql as $$
declare
    v_source constant int := ctx #>> '{state,source}';
    v_target constant int := ctx #>> '{state,target}';
    v_amount constant int := ctx #>> '{state,amount}';
begin
    perform nextval('move_run');
    -- in one order, so that two transfers of the same two accounts wait one way round only
    perform from account where id in (v_source, v_target) order by id for update;
    update account set balance = balance - v_amount where id = v_source and balance >= v_amount;
    if not found then
        return '{"kind": "stop", "reason": "not covered"}';
    end if;
    update account set balance = balance + v_amount where id = v_target;
    insert into booking values ((ctx ->> 'id')::bigint, v_source, -v_amount), ((ctx ->> 'id')::bigint, v_target, v_amount);
    if ctx -> 'attempt' = '0' and ctx #> '{state,stutters}' = 'true' then
        -- what it has written is undone, and the step runs again
        raise exception 'the step fails behind its writes';
    end if;
    return '{"kind": "next", "step": "receipt"}';
end $$;

-- Step "receipt".
create function bank_receipt(ctx jsonb) returns jsonb language plpgsql as $$
begin
    insert into receipt values ((ctx ->> 'id')::bigint, (ctx #>> '{state,amount}')::int);
    return '{"kind": "done"}';
end $$;

select gd_define_step('bank.sql', 'move', 'bank_move(jsonb)'), gd_define_step('bank.sql', 'receipt', 'bank_receipt(jsonb)');
select gd_register('bank.sql', 1, 'move', 'bank.sql');

-- Of the mixed machine one step is in SQL.
select gd_define_step('bank.mixed', 'move', 'bank_move(jsonb)');
