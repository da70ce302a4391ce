-- A nightly report as steps in SQL: collect, add up, publish. Nothing outside of the database runs it but pg_cron, or any
-- client that calls gd_run. nightly.py plays it; with psql it is: psql -f nightly.sql, and then call gd_run('reports').

create table sale (day date not null, product text not null, cents int not null, reported boolean not null default false);
-- No key on purpose: a step that counted twice would show.
create table report_line (day date not null, product text not null, cents bigint not null);
create table report (day date not null, lines int not null, cents bigint not null);
-- Where a step fails at first, behind its writes.
create table glitch (day date not null, step text not null);
-- How often steps have run: what a sequence has given out is not undone.
create sequence nightly_run;

-- The day that a report is about: what its schedule says, and not the clock.
create function nightly_day(ctx jsonb) returns date language sql as $$
    select coalesce((ctx #>> '{state,day}')::date, ((ctx #>> '{meta,tick}')::timestamptz at time zone 'UTC')::date - 1)
$$;

create function nightly_glitch(ctx jsonb) returns void language plpgsql as $$
begin
    perform nextval('nightly_run');
    if ctx -> 'attempt' = '0' and exists (
        select from glitch where day = nightly_day(ctx) and step = ctx ->> 'step')
    then
        raise exception 'the step % fails behind its writes', ctx ->> 'step';
    end if;
end $$;

create function nightly_collect(ctx jsonb) returns jsonb language plpgsql as $$
begin
    insert into report_line
    select day, product, sum(cents) from sale where day = nightly_day(ctx) group by day, product;
    perform nightly_glitch(ctx);
    return jsonb_build_object('kind', 'next', 'step', 'total', 'state', jsonb_build_object('day', nightly_day(ctx)));
end $$;

create function nightly_total(ctx jsonb) returns jsonb language plpgsql as $$
begin
    insert into report
    select nightly_day(ctx), count(*), coalesce(sum(cents), 0) from report_line where day = nightly_day(ctx);
    perform nightly_glitch(ctx);
    return '{"kind": "next", "step": "publish"}';
end $$;

-- The mail is another machine's: it comes into being in the commit of this step.
create function nightly_publish(ctx jsonb) returns jsonb language plpgsql as $$
begin
    update sale set reported = true where day = nightly_day(ctx);
    perform nightly_glitch(ctx);
    return jsonb_build_object(
        'kind', 'done', 'result', (select to_jsonb(r) from report r where day = nightly_day(ctx)),
        'insert', jsonb_build_array(jsonb_build_object(
            'fsm', 'nightly.mail', 'queue', 'mails', 'state', jsonb_build_object('day', nightly_day(ctx)))));
end $$;

select gd_register('nightly', 1, 'collect', 'reports');
select
    gd_define_step('nightly', 'collect', 'nightly_collect(jsonb)'),
    gd_define_step('nightly', 'total', 'nightly_total(jsonb)'),
    gd_define_step('nightly', 'publish', 'nightly_publish(jsonb)');

-- At three in the night: the instance. The claims of its queue make it, those of gd_run as well.
select gd_schedule('nightly report', '0 3 * * *', 'nightly');

-- Each minute: whatever is due. A command of pg_cron must be the CALL alone.
do $$
begin
    if exists (select from pg_extension where extname = 'pg_cron') then
        perform cron.schedule('nightly report', '* * * * *', 'call gd_run(''reports'')');
    end if;
end $$;
