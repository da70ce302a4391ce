\ir helpers/tap.psql
select no_plan();

create schema shop;
select lives_ok(
    $$create table shop."Order" (
        id bigint primary key, status text, amount numeric, "odd ""col" text, paid_at timestamptz, day date,
        twice numeric generated always as (amount * 2) stored, gone int
    )$$, '(a table)');

-- What arrived in the inbox of a key since the last look.
create function t.inbox(p_key text) returns text
language plpgsql as $$
declare
    v_said text;
begin
    with d as (delete from gendurable.signal s where s.instance_id = gd_find(p_key) returning s.id, s.name, s.payload)
    select string_agg(d.name || case when d.payload <> '{}' then ' ' || d.payload::text else '' end, ', ' order by d.id) into v_said from d;
    return coalesce(v_said, 'nothing');
end $$;

select gd_insert('m', p_unique_key => k, p_queue => 'so')
from unnest('{order:1,order:2,order:3,order:4,"{1}paid it''s \\","1","on:2026-02-01","at:2026-02-01 12:00:00+00"}'::text[]) k;

-- a row that comes to match

select is(
    gd_signal_on('shop."Order"', 'paid', 'order:{id}', 'status = ''paid'' and amount > 0', '{amount,"odd \"col",twice}'),
    'gd_signal_on_paid', 'it answers what the trigger is called');
insert into shop."Order" (id, status, amount) values (1, 'new', 5), (2, 'paid', 5), (9, 'paid', 5);
select is(t.inbox('order:1'), 'nothing', 'inserted, and it does not match: no signal');
select is(t.inbox('order:2'), 'paid {"twice": 10, "amount": 5, "odd \"col": null}', 'inserted as one that matches: the named columns, also a generated one');
update shop."Order" set amount = 7;
select is(t.inbox('order:1'), 'nothing', 'updated, not matching');
select is(t.inbox('order:2'), 'nothing', 'updated, matching as before');
update shop."Order" set status = 'paid', amount = amount + 1;
select is(t.inbox('order:1'), 'paid {"twice": 16, "amount": 8, "odd \"col": null}', 'updated from not matching to matching');
select is(t.inbox('order:2'), 'nothing', 'and not the one that matched');
update shop."Order" set status = null where id = 1;
update shop."Order" set status = 'paid' where id = 1;
select is(t.inbox('order:1'), 'paid {"twice": 16, "amount": 8, "odd \"col": null}', 'from a condition that is null: once more');
delete from shop."Order" where id = 1;
select is(t.inbox('order:1'), 'nothing', 'a delete is none');

insert into shop."Order" (id, status, amount) values (1, 'new', 1), (2, 'x', 1)
on conflict (id) do update set amount = 3, status = 'paid';
select is(t.inbox('order:1') || ' ' || t.inbox('order:2'), 'nothing nothing', 'an upsert is the insert or the update that it is');
insert into shop."Order" (id, status, amount) values (1, 'paid', 1) on conflict (id) do update set status = 'paid', amount = 4;
select is(t.inbox('order:1'), 'paid {"twice": 8, "amount": 4, "odd \"col": null}', 'a signal for the update of one');
insert into shop."Order" (id, status, amount) values (1, 'paid', 1) on conflict (id) do nothing;
select is(t.inbox('order:1'), 'nothing', 'none for a conflict');
begin;
insert into shop."Order" (id, status, amount) values (3, 'paid', 1);
select is(t.inbox('order:3') like 'paid%', true, 'in the transaction of the write');
rollback;
select is(t.inbox('order:3'), 'nothing', 'and gone with it');

-- what it is made of

select is(
    (select format('%s %s %s %s', p.prosecdef, p.proowner = current_user::regrole, n.nspname, p.proacl)
        from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
        where t.tgname = 'gd_signal_on_paid'),
    format('t t shop {%1$s=X/%1$s}', current_user), 'a definer function beside the table that only its owner may execute');
select ok(
    (select 'search_path=pg_catalog, pg_temp' = any(p.proconfig) from pg_trigger t join pg_proc p on p.oid = t.tgfoid where t.tgname = 'gd_signal_on_paid'),
    'with a fixed search_path');
select is(
    (select count(*) from pg_class where relnamespace = 'shop'::regnamespace and relkind = 'r'), 1::bigint, 'nothing else is left in the schema');

-- names, keys, payloads

select lives_ok(
    $$select gd_signal_on('shop."Order"', 'it''s "\', '{{{id}}}{status} it''s \', 'status = ''paid''', '{}', 'odd "trigger"')$$, 'odd names');
insert into shop."Order" (id, status) values (10, 'paid');
delete from shop."Order" where id = 1;
insert into shop."Order" (id, status) values (1, 'paid');
select is(t.inbox('{1}paid it''s \'), 'it''s "\', 'of signals, keys and triggers; braces that are no columns; no columns');
set standard_conforming_strings = off;
delete from shop."Order" where id = 1;
insert into shop."Order" (id, status) values (1, 'paid');
set standard_conforming_strings = on;
select is(t.inbox('{1}paid it''s \'), 'it''s "\', 'whatever the writer''s setting');
update shop."Order" set status = null;
update shop."Order" set status = 'paid', id = id + 100;
select is(gd_signal_off('shop."Order"', 'odd "trigger"'), true, 'off');
select is(gd_signal_off('shop."Order"', 'odd "trigger"'), false, 'off once');
select is(
    (select count(*) from pg_proc where pronamespace = 'shop'::regnamespace), 1::bigint, 'its function has gone with it');

select lives_ok($$select gd_signal_on('shop."Order"', 'n', '{gone}', p_name => 'digits')$$, 'a key that may be digits');
select t.raises($$select gd_signal(gd_find('order:2')::text, 'n')$$, 'GD501', '(digits that are an id)');
insert into shop."Order" (id, gone) values (250, 2147483647), (251, null), (252, 1), (253, gd_find('order:2')::int);
select is(t.inbox('1'), 'n', 'finds its holder');
select is((select count(*) from gendurable.signal), 0::bigint, 'and is not taken for an id; no signal for a key with a null');
select gd_signal_off('shop."Order"', 'digits') \gset

set timezone = 'Asia/Tokyo';
set datestyle = 'SQL, DMY';
set transform_null_equals = on;
select lives_ok(
    $$select gd_signal_on('shop."Order"', 'on', 'on:{day}', 'day = ''2026-02-01'' or gone = null', '{day,paid_at}', 'on'),
        gd_signal_on('shop."Order"', 'at', 'at:{paid_at}', 'paid_at >= ''2026-02-01 12:00''', '{}', 'at')$$, 'keys of times');
insert into shop."Order" (id, day, paid_at) values (300, '1/2/2026', '1/2/2026 21:00');
select is(t.inbox('on:2026-02-01'), 'on {"day": "2026-02-01", "paid_at": "2026-02-01T12:00:00+00:00"}', 'do not depend on the writer''s settings');
select is(t.inbox('at:2026-02-01 12:00:00+00'), 'at', 'nor do conditions');
reset timezone;
reset datestyle;
reset transform_null_equals;
select gd_signal_off('shop."Order"', 'on') \gset
select gd_signal_off('shop."Order"', 'at') \gset
select lives_ok($$select gd_signal_on('shop."Order"', 'e', '{status}', 'id >= 400', '{}', 'e')$$, 'keys');
select lives_ok(
    $$insert into shop."Order" (id, status) values (400, ''), (401, repeat('x', 3000)), (402, 'order:nobody')$$, 'that nobody can hold are no error');
select gd_signal_off('shop."Order"', 'e') \gset

-- many words that are names of columns here and something else in PL/pgSQL

select lives_ok(
    $$create table shop.odd (
        "begin" int, "loop" int, new int, old int, found int, r int, v_key text, tg_op text, "into" int, "$1" int, "%s" int, "a{b" int
    )$$, '(a table)');
select lives_ok(
    $$select gd_signal_on('shop.odd', 'odd', 'order:{r}',
        '"begin" = 1 and "loop" = 2 and new = 3 and old = 4 and found = 5 and r = 3 and v_key = ''v'' and tg_op = ''t'' and "into" = 6
            and "$1" = 7 and "%s" = 8 and v_key <> ''; $body$ end'' -- ) ;', '{begin,new,found,r,"$1",%s,"a{b",r}')$$, 'columns with odd names');
insert into shop.odd values (1, 2, 3, 4, 5, 3, 'v', 't', 6, 7, 8, 9);
update shop.odd set found = 0;
update shop.odd set found = 5;
select is(
    t.inbox('order:3'),
    'odd {"r": 3, "$1": 7, "%s": 8, "a{b": 9, "new": 3, "begin": 1, "found": 5}, odd {"r": 3, "$1": 7, "%s": 8, "a{b": 9, "new": 3, "begin": 1, "found": 5}',
    'are columns');

-- again: the same, another one

select is(
    gd_signal_on('shop."Order"', 'paid', 'order:{id}', 'status = ''paid'' and amount > 0', '{twice,amount,"odd \"col"}'), 'gd_signal_on_paid',
    'the same once more');
select t.raises($$select gd_signal_on('shop."Order"', 'paid', 'order:{id}', 'status = ''paid''')$$, 'GD501', 'another one needs a name');
select is(gd_signal_on('shop."Order"', 'paid', 'order:{id}', 'status = ''paid''', p_name => 'gd_signal_on_paid'), 'gd_signal_on_paid', 'or replaces by name');
insert into shop."Order" (id, status) values (4, 'paid');
select is(t.inbox('order:4'), 'paid', 'then the new one counts, and the old one is gone');
select is((select count(*) from pg_trigger where tgrelid = 'shop."Order"'::regclass and not tgisinternal), 1::bigint, '(one trigger)');
select is((select count(*) from pg_proc where pronamespace = 'shop'::regnamespace), 2::bigint, '(one function, and that of the other table)');
create function shop.mine() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger mine after insert on shop."Order" for each row execute function shop.mine();
select t.raises($$select gd_signal_on('shop."Order"', 'paid', 'order:{id}', p_name => 'mine')$$, 'GD501', 'a trigger of somebody else''s');
select is(gd_signal_off('shop."Order"', 'mine'), false, 'is neither replaced nor removed');
drop trigger mine on shop."Order";
select gd_signal_on('shop."Order"', repeat('s', 200), 'order:{id}') as long \gset
select ok(length(:'long') <= 63 and gd_signal_off('shop."Order"', :'long'), 'a long name of a signal');

-- changes of the table

select throws_ok($$alter table shop."Order" drop column status$$, '2BP01', null, 'a column that is read is not dropped');
select throws_ok($$alter table shop."Order" alter column id type numeric$$, '0A000', null, 'nor gets another type');
alter table shop."Order" drop column gone, add column note text;
alter table shop."Order" rename to orders;
alter table shop.orders set schema public;
insert into public.orders (id, status) values (3, 'paid');
select is(t.inbox('order:3'), 'paid', 'other columns may; the table may have another name and schema');
begin;
alter table public.orders rename column status to state;
select throws_ok($$insert into public.orders (id, state) values (77, 'paid')$$, '42703', null, 'a column that was renamed fails the writes');
select lives_ok($$select gd_signal_on('orders', 'paid', 'order:{id}', 'state = ''paid''', p_name => 'gd_signal_on_paid')$$, 'until it is told');
delete from public.orders where id = 4;
insert into public.orders (id, state) values (4, 'paid');
select is(t.inbox('order:4'), 'paid', '(in the same transaction)');
rollback;
alter table public.orders drop column status cascade;
select lives_ok($$insert into public.orders (id) values (78)$$, 'a column that is dropped with cascade takes the trigger along');

-- partitions

create table shop.part (id int, status text, region text) partition by list (region);
create table shop.part_a partition of shop.part for values in ('a');
select lives_ok($$select gd_signal_on('shop.part', 'paid', 'order:{id}', 'status = ''paid''', '{region}')$$, 'a partitioned table');
create table shop.part_b (status text, dropped int, region text, id int);
alter table shop.part_b drop column dropped;
select lives_ok($$alter table shop.part attach partition shop.part_b for values in ('b')$$, '(another partition)');
insert into shop.part values (1, 'paid', 'a'), (2, 'new', 'b');
update shop.part set status = 'paid';
select is(t.inbox('order:1') || ', ' || t.inbox('order:2'), 'paid {"region": "a"}, paid {"region": "b"}',
    'also partitions that come later, with columns in another order');
update shop.part set region = 'b' where id = 1;
select is(t.inbox('order:1'), 'paid {"region": "b"}', 'a row that moves into another partition is inserted there');
select is(gd_signal_off('shop.part_b', 'gd_signal_on_paid'), false, 'a partition has no trigger of its own');
select t.raises($$select gd_signal_on('shop.part_b', 'paid', 'order:{id}')$$, 'GD501', 'nor can it replace that one');
select is(gd_signal_on('shop.part', 'paid', 'order:{id}', 'status = ''sold''', p_name => 'gd_signal_on_paid'), 'gd_signal_on_paid', 'replaced for all');
update shop.part set status = 'sold';
select is(t.inbox('order:1') || ', ' || t.inbox('order:2'), 'paid, paid', '(the new one)');
select is(gd_signal_off('shop.part', 'gd_signal_on_paid'), true, 'and removed from all');
select is_empty($$select tgname from pg_trigger where tgname = 'gd_signal_on_paid'$$, '(gone)');

-- what is refused: at once, and nothing is left

create table shop.plain (id int primary key, status text);
create view shop.seen as select * from shop.plain;
create temp table passing (id int);
select t.raises(format('select gd_signal_on(%L, %L, %L, %L, %L, %L)', x.on_table, x.signal, x.key, x.cond, x.payload, x.name), 'GD501', x.why)
from (values
    (null, 's', '{id}', 'true', '{}', null, 'no table'), ('shop.seen', 's', '{id}', 'true', '{}', null, 'a view'),
    ('passing', 's', '{id}', 'true', '{}', null, 'a temporary table'), ('gendurable.instance', 's', '{id}', 'true', '{}', null, 'one of ours'),
    ('pg_catalog.pg_class', 's', '{oid}', 'true', '{}', null, 'one of the server''s'), ('999999', 's', '{id}', 'true', '{}', null, 'a number that is no table'),
    ('shop.plain', null, '{id}', 'true', '{}', null, 'no signal'), ('shop.plain', '', '{id}', 'true', '{}', null, 'an empty one'),
    ('shop.plain', repeat('s', 2001), '{id}', 'true', '{}', null, 'a signal that is too long'),
    ('shop.plain', 's', null, 'true', '{}', null, 'no key'), ('shop.plain', 's', '', 'true', '{}', null, 'an empty key'),
    ('shop.plain', 's', repeat('k', 2001), 'true', '{}', null, 'a key that is too long'),
    ('shop.plain', 's', 'k:{', 'true', '{}', null, 'an open brace'), ('shop.plain', 's', 'k:}', 'true', '{}', null, 'a closing one'),
    ('shop.plain', 's', 'k:{}', 'true', '{}', null, 'nothing in braces'), ('shop.plain', 's', 'k:{id}}', 'true', '{}', null, 'one and a half'),
    ('shop.plain', 's', 'k:{idd}', 'true', '{}', null, 'a key of a column that is not there'),
    ('shop.plain', 's', 'k:{ctid}', 'true', '{}', null, 'of a column of the system'), ('shop.plain', 's', 'k:{ID}', 'true', '{}', null, 'of one in capitals'),
    ('shop.plain', 's', 'k', 'true', '{idd}', null, 'a payload of a column that is not there'), ('shop.plain', 's', 'k', 'true', '{NULL}', null, 'of a null'),
    ('shop.plain', 's', 'k', 'true', '{}', '', 'an empty name'), ('shop.plain', 's', 'k', 'true', '{}', repeat('n', 64), 'a long name'),
    ('shop.plain', 's', 'k', '', '{}', null, 'an empty condition'), ('shop.plain', 's', 'k', 'statu = 1', '{}', null, 'a typo'),
    ('shop.plain', 's', 'k', 'id', '{}', null, 'no condition'), ('shop.plain', 's', 'k', '(id = 1', '{}', null, 'a parenthesis too few'),
    ('shop.plain', 's', 'k', 'id = 1) or (true', '{}', null, 'two halves'),
    ('shop.plain', 's', 'k', 'true then true end; drop table shop.plain; select case when true', '{}', null, 'two statements'),
    ('shop.plain', 's', 'k', 'true); drop table shop.plain; select (true', '{}', null, 'otherwise'),
    ('shop.plain', 's', 'k', 'true /*', '{}', null, 'an open comment'), ('shop.plain', 's', 'k', 'status = ''', '{}', null, 'an open string'),
    ('shop.plain', 's', 'k', 'true, true', '{}', null, 'two conditions'), ('shop.plain', 's', 'k', 'id = $1', '{}', null, 'a parameter'),
    ('shop.plain', 's', 'k', 'exists (select from shop.plain p where p.id > id)', '{}', null, 'a subquery'),
    ('shop.plain', 's', 'k', 'select true', '{}', null, 'a query'), ('shop.plain', 's', 'k', 'count(*) > 1', '{}', null, 'an aggregate'),
    ('shop.plain', 's', 'k', 'ctid is not null', '{}', null, 'a column of the system'), ('shop.plain', 's', 'k', 'old.id = 1', '{}', null, 'the old row'),
    ('shop.plain', 's', 'k', 'tg_op = ''INSERT''', '{}', null, 'a variable of the trigger'),
    ('shop.plain', 's', 'k', 'id = 1/0', '{}', null, 'what fails when it is planned'),
    ('shop.plain', 's', 'k', 'status = ''x''::int::text', '{}', null, 'a literal that is none'),
    ('shop.plain', 's', 'k', 'no_such(id)', '{}', null, 'a function that is not found')
) x (on_table, signal, key, cond, payload, name, why);
select is((select count(*) from shop.plain), 0::bigint, 'the table is there');
select is_empty($$select tgname from pg_trigger where tgrelid = 'shop.plain'::regclass$$, 'without a trigger');
select is_empty($$select relname from pg_class where relnamespace = 'shop'::regnamespace and relname like 'gd%'$$, 'and nothing beside it');
select is_empty($$select proname from pg_proc where pronamespace = 'shop'::regnamespace and proname like 'gd_signal_on_plain%'$$, '(no function)');
select t.raises($$select gd_signal_off(null, 'x')$$, 'GD501', 'off of no table');
select t.raises($$select gd_signal_off('shop.plain', null)$$, 'GD501', 'off of no name');
select lives_ok($$select gd_signal_on('shop.plain', 's', 'order:1', null, null)$$, 'null is the default');
insert into shop.plain values (1, 'x');
select is(t.inbox('order:1'), 's', '(every row)');
select current_setting('server_version_num')::int >= 180000 as virtual \gset
\if :virtual
create table shop.virtual (id int, v int generated always as (id + 1) virtual);
select t.raises($$select gd_signal_on('shop.virtual', 's', 'k:{v}')$$, 'GD501', 'virtual columns are not there: in a key');
select t.raises($$select gd_signal_on('shop.virtual', 's', 'k', 'v = 2')$$, 'GD501', 'nor in a condition');
\else
select skip('virtual generated columns come with PostgreSQL 18', 2);
\endif

select * from finish();
