\ir helpers/tap.psql
select no_plan();

-- Who did what by hand.

create function t.told(p_filter jsonb = '{}') returns text
language sql as $$
    select coalesce(string_agg(concat_ws(' ', a.call, a.id, a.what, a.count), '; ' order by a.no), '') from gd_audit(p_filter) a
$$;

select is_empty($$select * from gd_audit()$$, 'nobody has done anything');

-- what is written down

set application_name = 'night shift';
select gendurable._note_by_hand('gd_one', 7, '{"reason": "enough", "step": null}', 1);
select set_config('gendurable.actor', 'Ada', false);
select gendurable._note_by_hand('gd_many', null, gendurable._tell_ids('{4,5,6}'), 2);
select results_eq(
    $$select a.call, a.session_role, a.set_role, a.actor, a.application, a.id, a.what, a.count from gd_audit() a$$,
    $$values
        ('gd_many', session_user::text collate "default", null, 'Ada', 'night shift', null::bigint, '{"ids": [4, 5, 6], "given": 3}'::jsonb, 2::bigint),
        ('gd_one', session_user::text collate "default", null, null, 'night shift', 7, '{"reason": "enough"}', 1)$$, 'newest first, without nulls');
select cmp_ok(max(a.at), '<=', clock_timestamp(), 'when') from gd_audit() a;
select set_config('gendurable.actor', '', false);
begin;
create role gd_t_becomes;
grant usage, create on schema gendurable to gd_t_becomes;
grant execute on all functions in schema gendurable to gd_t_becomes;
grant insert on gendurable.audit to gd_t_becomes;
set local role gd_t_becomes;
select gendurable._note_by_hand('gd_as', null, '{}', 1);
reset role;
select is(a.set_role, 'gd_t_becomes', 'whom the session has become') from gd_audit('{"call": "gd_as"}') a;
rollback;
select is_empty($$select * from gd_audit('{"call": "gd_as"}')$$, 'what is rolled back was not done');

-- whatever somebody sends, a row is short

truncate gendurable.audit;
select set_config('gendurable.actor', repeat('x', 100000), false) is null as _ \gset
select gendurable._note_by_hand('gd_long', null, jsonb_build_object('a', repeat(E'\u00e4"', 100000), 'b', 1, repeat('k', 5000), 2), 1);
select gendurable._note_by_hand('gd_long', null, (select jsonb_object_agg('k' || g, repeat('x', 300)) from generate_series(1, 1000) g), 1);
select gendurable._note_by_hand('gd_long', null, gendurable._tell_ids(array(select generate_series(1, 10000)::bigint)), 10000);
select set_config('gendurable.actor', '', false);
select results_eq(
    $$select a.what ->> 'given', jsonb_array_length(a.what -> 'ids') from gd_audit() a limit 1$$,
    $$values ('10000', 20)$$, 'of many ids the first, and how many');
select is(a.what ->> 'b', '1', 'what is short stays as it is') from (select x.what from gd_audit() x offset 2) a;
select matches(a.what ->> 'a', ' \[cut\]$', 'what is long is cut, and says so') from (select x.what from gd_audit() x offset 2) a;
select cmp_ok(max(pg_column_size(a.*)), '<', 8000, 'bounded in bytes') from gendurable.audit a;
select is(max(length(a.actor)), 200, 'also who it was') from gd_audit() a;

-- by which filter they were found, as the session says

truncate gendurable.audit;
select set_config('gendurable.filter', '{"fsm": "mail", "attributes": {"a": null}}', false) is null as _ \gset
select gendurable._note_by_hand('gd_many', null, gendurable._tell_ids('{4,5}'), 2);
select is(a.what, '{"ids": [4, 5], "given": 2, "filter": {"fsm": "mail", "attributes": {"a": null}}}', 'as it was said') from gd_audit() a;
create temp table said (no int, value text);
insert into said values (1, ''), (2, 'no JSON'), (3, '[1, 2]'), (4, '{"a": "\u0000"}'), (5, '{"a": 1e999999}'), (6, repeat('[', 100000)),
    (7, '{"a": "' || repeat('x', 90000) || '"}'), (8, '{"a": "' || repeat('x', 200000) || '"}'), (9, 'null'), (10, ' '), (11, repeat(E'\u00e4', 100000));
truncate gendurable.audit;
do $$
declare
    v record;
begin
    for v in select * from said order by no loop
        perform set_config('gendurable.filter', v.value, false);
        perform gendurable._note_by_hand('gd_any', v.no, '{"reason": "x"}', 1);
    end loop;
    perform set_config('gendurable.filter', '', false);
end $$;
select is(count(*), 11::bigint, 'whatever stands in the setting, a call is written down') from gd_audit('{"call": "gd_any"}');
select is(string_agg(a.id::text, ',' order by a.id), '1', 'without one there is none') from gd_audit('{"call": "gd_any"}') a where not a.what ? 'filter';
select is(min(a.what ->> 'reason'), 'x', 'the arguments are there as well') from gd_audit('{"call": "gd_any"}') a;
select is((select a.what ->> 'filter' from gd_audit('{"id": 2}') a), 'no JSON', 'what is no JSON is a text');
select cmp_ok(max(octet_length(a.what::text)), '<', 3000, 'bounded in bytes') from gd_audit('{"call": "gd_any"}') a;
select matches((select a.what -> 'filter' ->> 'a' from gd_audit('{"id": 7}') a), ' \[cut\]$', 'what is long is cut, and says so');
set max_stack_depth = '100kB';
select set_config('gendurable.filter', repeat('[', 90000), false) is null as _ \gset
select lives_ok($$select gendurable._note_by_hand('gd_any', 12, '{}', 1)$$, 'also what is deeper than the server may go');
reset max_stack_depth;
select set_config('gendurable.filter', '{"fsm": "mail"}', false) is null as _ \gset
select gd_insert('mail') as mail \gset
select is((select r.result from gd_cancel_many(array[:mail]) r), 'done');
select set_config('gendurable.filter', '', false) is null as _ \gset
select is(a.what -> 'filter', '{"fsm": "mail"}', 'and of the calls themselves') from gd_audit('{"call": "gd_cancel_many"}') a;

-- what programs do as they run, and people now and then

truncate gendurable.audit;
select gd_set_rate_limit('mail', 5, '1 minute') is null as _ \gset
truncate gendurable.audit;
select gd_close_rate_limit('mail', '2100-01-01Z') is null as _ \gset
select is(t.told(), '', 'a worker closes a bucket as it runs');
select set_config('gendurable.actor', 'Ada', false) is null as _ \gset
select gd_close_rate_limit('mail', '2100-01-01Z') is null as _ \gset
select gd_close_rate_limit('mail', null) is null as _ \gset
select set_config('gendurable.actor', '', false) is null as _ \gset
select results_eq(
    $$select a.call, a.actor, a.what - 'until' || jsonb_build_object('until', (a.what ->> 'until')::timestamptz) from gd_audit() a$$,
    $$values
        ('gd_close_rate_limit', 'Ada', '{"bucket": "mail", "until": null}'::jsonb),
        ('gd_close_rate_limit', 'Ada', jsonb_build_object('bucket', 'mail', 'until', '2100-01-01Z'::timestamptz))$$,
    'who says for whom does it by hand');

truncate gendurable.audit;
select gd_insert('mail', p_unique_key => 'mail:7') as mail \gset
select gd_signal(:mail, 'go') is null as _ \gset
select gd_signal('mail:7', 'go') is null as _ \gset
select is(t.told(), '', 'programs signal as they run');
select set_config('gendurable.actor', 'Ada', false) is null as _ \gset
select is(gd_signal(:mail, 'go', '{"card": 4711}', 'once'), 'delivered');
select is(gd_signal(:mail, 'go', '1', 'once'), 'duplicate');
select is(gd_signal('mail:7', 'stop', '1'), 'delivered');
select is(gd_signal('mail:8', 'stop', '1'), 'no_target');
select set_config('gendurable.actor', '', false) is null as _ \gset
select is(
    t.told(),
    format('gd_signal %1$s {"name": "go", "dedup_key": "once"} 1; gd_signal %1$s {"name": "stop"} 1', :mail),
    'people now and then: what was delivered, without what it brought');

-- filters and pages

truncate gendurable.audit restart identity;
select gendurable._note_by_hand(case when g % 2 = 0 then 'gd_even' else 'gd_odd' end, case when g <= 10 then g % 3 end, '{}', g)
from generate_series(1, 30) g;
update gendurable.audit set at = '2020-01-01Z'::timestamptz + no * interval '1 day';
select is(t.told('{"id": 1}'), 'gd_odd 1 {} 1; gd_even 1 {} 4; gd_odd 1 {} 7; gd_even 1 {} 10', 'of one instance');
select is(t.told('{"id": 1, "call": "gd_even"}'), 'gd_even 1 {} 4; gd_even 1 {} 10', 'and one function');
select is(t.told('{"after": "2020-01-30T00:00:00Z"}'), 'gd_odd {} 29; gd_even {} 30', 'from a time on');
select is(t.told('{"before": "2020-01-03T00:00:00Z"}'), 'gd_odd 1 {} 1', 'before a time');
select is(t.told('{"session_role": "nobody of that name"}'), '', 'a role');
select is(t.told('{"set_role": "x"}'), '', 'a role that was set');
select is(t.told('{"actor": "x"}'), '', 'an actor');
select is((select count(*) from gd_audit('{"application": "night shift"}')), 30::bigint, 'an application');
select is((select count(*) from gd_audit(null)), 30::bigint, 'null: all');
select is((select array_agg(a.count order by a.no desc) from gd_audit('{}', null, 3) a), '{30,29,28}'::bigint[], 'a page');
select is((select array_agg(a.count order by a.no desc) from gd_audit('{}', 28, 3) a), '{27,26,25}'::bigint[], 'the next');
select is((select array_agg(a.count order by a.no desc) from gd_audit('{"id": 0}', 9, 1) a), '{6}'::bigint[], 'a page of one instance');
select results_eq(
    $$select a.no, a.call from gd_audit('{"call": "gd_even"}', null, 100, 3) a$$,
    $$values (30::bigint, 'gd_even'), (28, 'gd_even'), (28, null)$$, 'a call that stops early says where to go on');
select results_eq(
    $$select a.no, a.call from gd_audit('{"call": "gd_odd"}', 4, 100, 3) a$$,
    $$values (3::bigint, 'gd_odd'), (1, 'gd_odd'), (1, null)$$, 'also where it cannot know that there is no more');
select is_empty($$select * from gd_audit('{}', 1)$$, 'behind the last there is nothing');
select results_eq(
    $$select a.no, a.call from gd_audit('{"id": 1, "call": "x"}', null, 100, 2) a$$, $$values (7::bigint, null::text)$$, 'of one instance, too');
select t.raises($$select * from gd_audit('{"who": "x"}')$$, 'GD501', 'a key that it does not know');
select t.raises($$select * from gd_audit('{"id": "x"}')$$, 'GD501', 'an id that is none');
select t.raises($$select * from gd_audit('{"id": 1e30}')$$, 'GD501', 'an id beyond all');
select t.raises($$select * from gd_audit('{"after": "soon"}')$$, 'GD501', 'a time that is none');
select t.raises($$select * from gd_audit('{"call": null}')$$, 'GD501', 'null as a value');
select t.raises($$select * from gd_audit('[]')$$, 'GD501', 'no object');
select t.raises($$select * from gd_audit('{}', null, -1)$$, 'GD501', 'a negative limit');
select t.raises($$select * from gd_audit('{}', null, 1, 0)$$, 'GD501', 'a look at nothing');

-- how long it is kept

truncate gendurable.audit restart identity;
select gendurable._note_by_hand('gd_old', x.id, '{}', x.days) from (values (null::bigint, 91), (7, 8), (null, 89), (7, 6), (7, 9), (null, 0)) x (id, days);
update gendurable.audit set at = clock_timestamp() - count * interval '1 day';
select gd_maintain() -> 'ran' as _ \gset
select is(t.told(), 'gd_old {} 89; gd_old 7 {} 6; gd_old {} 0', 'what concerns one instance goes after 7 days, all else after 90');

-- a long audit is walked in stretches, behind what is kept
truncate gendurable.audit restart identity;
select gendurable._note_by_hand('gd_kept', null, '{}', 0) from generate_series(1, 2500);
select gendurable._note_by_hand('gd_gone', 1, '{}', 0) from generate_series(1, 300);
select gendurable._note_by_hand('gd_new', null, '{}', 0);
update gendurable.audit set at = at - interval '10 days' where call <> 'gd_new';
select gendurable._forget_audit(clock_timestamp());
select is((select count(*) from gendurable.audit a where a.call = 'gd_gone'), 300::bigint, '(the first stretch is all to be kept)');
select gendurable._forget_audit(clock_timestamp());
select is((select count(*) from gendurable.audit a where a.call = 'gd_gone'), 0::bigint, 'the next one goes on there');
update gendurable.audit set at = at - interval '100 days' where no <= 10;
select gendurable._forget_audit(clock_timestamp());
select is((select count(*) from gendurable.audit), 2491::bigint, 'and then it comes round');

-- which calls are written down: each that had an effect, once

truncate gendurable.audit restart identity;
create function t.last() returns text
language sql as $$
    -- how many there are since the last time, and what the last one says
    with gone as (delete from gendurable.audit a returning a.*)
    select count(*) || coalesce(': ' || (array_agg(concat_ws(' ', g.call, g.what, g.count) order by g.no desc))[1], '') from gone g
$$;
select gd_insert('m', p_queue => 'aud') as id \gset
select gd_signal(:id, 'x') as _ \gset
select gd_close_rate_limit('none such', null);
select gd_register('m', 1, 's', 'aud');
select t.take('aud') is null as _ \gset
select is(t.last(), '0', 'what programs do is not');
select gd_cancel(:id, 'enough') as _ \gset
select is(t.last(), '1: gd_cancel {"reason": "enough"} 1', 'gd_cancel');
select gd_cancel(:id) as _ \gset
select is(t.last(), '0', 'what had no effect is not');
select gd_retry(:id, 's', '{"secret": 1}') as _ \gset
select is(t.last(), '1: gd_retry {"step": "s", "state": "another one"} 1', 'gd_retry, without the state');
select gd_retry(:id) as _ \gset
select gd_reschedule(:id, '2099-01-01Z') as _ \gset
select matches(t.last(), '^1: gd_reschedule {"eligible_at": "(2099-01-01|2098-12-31)T.*"} 1$', 'gd_reschedule');
select gd_insert('m', p_queue => 'aud') as p \gset
select t.run('aud', '{"kind": "schedule_childs", "step": "j", "childs": [{"fsm": "c", "queue": "aud2"}, {"fsm": "c", "queue": "aud2"}]}') as _ \gset
select gd_cancel(:p, null, true) as _ \gset
select is(t.last(), '1: gd_cancel {"cascade": true} 3', 'with all that ended with it');
select count(*) from gd_retry_many(array[:p, 99999999]) \gset
select matches(t.last(), '^1: gd_retry_many {"ids": .*"given": 2} 1$', 'gd_retry_many');
select count(*) from gd_retry_many(array[:p]) \gset
select is(t.last(), '0', '(no effect)');
select count(*) from gd_reschedule_many(array[:p], '2099-01-01Z') \gset
select matches(t.last(), '^1: gd_reschedule_many {"ids": .*"eligible_at": .*} 1$', 'gd_reschedule_many');
select count(*) from gd_cancel_many(array[:p], 'x') \gset
select matches(t.last(), '^1: gd_cancel_many {"ids": .*"reason": "x"} 1$', 'gd_cancel_many');
select gd_pause_queue('aud');
select is(t.last(), '1: gd_pause_queue {"queue": "aud"} 1', 'gd_pause_queue');
select gd_pause_queue('aud');
select is(t.last(), '0', '(no effect)');
select gd_resume_queue('aud');
select is(t.last(), '1: gd_resume_queue {"queue": "aud"} 1', 'gd_resume_queue');
select gd_resume_queue('aud');
select is(t.last(), '0', '(no effect)');
select gd_set_queue('aud', '{"limit": 2}');
select is(t.last(), '1: gd_set_queue {"queue": "aud", "options": {"limit": 2}} 1', 'gd_set_queue');
select gd_set_queue('aud', '{}');
select is(t.last(), '0', '(nothing was set)');
select gd_set_key_limit('k', 3);
select is(t.last(), '1: gd_set_key_limit {"limit": 3, "prefix": "k"} 1', 'gd_set_key_limit');
select gd_set_rate_limit('r', 1, '1 s');
select matches(t.last(), '^1: gd_set_rate_limit {"name": "r", .*"allowed": 1} 1$', 'gd_set_rate_limit');
select gd_ensure_rate_limit('r', 1, '1 s') as _ \gset
select is(t.last(), '0', '(it was there)');
select gd_ensure_rate_limit('e', 1, '1 s') as _ \gset
select matches(t.last(), '^1: gd_ensure_rate_limit {"name": "e", .*"allowed": 1} 1$', 'gd_ensure_rate_limit');
select gd_hold_all('a test');
select is(t.last(), '1: gd_hold_all {"reason": "a test"} 1', 'gd_hold_all');
select gd_hold_all('a test');
select is(t.last(), '0', '(no effect)');
select gd_release_hold() as _ \gset
select is(t.last(), '1: gd_release_hold {} 1', 'gd_release_hold');
select gd_release_hold() as _ \gset
select is(t.last(), '0', '(no effect)');
select gd_schedule('sch', '0 6 * * *', 'm');
select matches(t.last(), '^1: gd_schedule {.*"made": true.*} 1$', 'gd_schedule');
select gd_schedule('sch', '0 6 * * *', 'm');
select is(t.last(), '0', '(again, as programs do)');
select gd_schedule('sch', '0 7 * * *', 'm');
select matches(t.last(), '^1: gd_schedule {.*"made": false.*} 1$', 'gd_schedule changes one');
select gd_pause_schedule('sch') as _ \gset
select is(t.last(), '1: gd_pause_schedule {"name": "sch"} 1', 'gd_pause_schedule');
select gd_pause_schedule('sch') as _ \gset
select is(t.last(), '0', '(no effect)');
select gd_resume_schedule('sch') as _ \gset
select is(t.last(), '1: gd_resume_schedule {"name": "sch"} 1', 'gd_resume_schedule');
select gd_resume_schedule('sch') as _ \gset
select is(t.last(), '0', '(no effect)');
select gd_trigger('sch') as id \gset
select is(a.id, :id::bigint, 'gd_trigger, with what it has inserted') from gd_audit() a;
select is(t.last(), '1: gd_trigger {"name": "sch"} 1', 'gd_trigger');
select gd_unschedule('sch') as _ \gset
select is(t.last(), '1: gd_unschedule {"name": "sch"} 1', 'gd_unschedule');
select gd_unschedule('sch') as _ \gset
select is(t.last(), '0', '(no effect)');
create function t.handler(p jsonb) returns jsonb language sql as $$ select '{"kind": "done"}'::jsonb $$;
select gd_define_step('m', 's', 't.handler(jsonb)', '{"queue": "q"}');
select is(t.last(), '1: gd_define_step {"fsm": "m", "step": "s", "handler": "t.handler", "options": {"queue": "q"}} 1', 'gd_define_step');
select gd_define_step('m', 's', 't.handler(jsonb)', '{"ensure": true}');
select is(t.last(), '0', '(it was there)');
select gd_drop_step('m', 's') as _ \gset
select is(t.last(), '1: gd_drop_step {"fsm": "m", "step": "s"} 1', 'gd_drop_step');
select gd_drop_step('m', 's') as _ \gset
select is(t.last(), '0', '(no effect)');
begin;
create role gd_t_audited;
select gd_grant('gd_t_audited', 'reader');
select is(t.last(), '1: gd_grant {"role": "gd_t_audited", "profile": "reader"} 1', 'gd_grant');
rollback;

-- What an operator may call is written down, unless it only looks, or is what programs do: whoever adds a function decides. gd_migrate has a door for it.
select is_empty(
    $$select p.proname
      from pg_proc p
      where p.pronamespace = (select m.api_schema from gendurable.meta m)::regnamespace
          and p.proname = any((gendurable._describe_profile('operator')).functions || (gendurable._describe_profile('author')).functions || 'gd_grant'::text)
          and p.provolatile = 'v' and p.prosrc !~ '_note_by_hand\(|_operate_many\(|gendurable\._migrate\('
          and p.proname <> all('{gd_insert,gd_insert_many,gd_signal,gd_signal_on,gd_signal_off,gd_watch,gd_reap,gd_gc,gd_maintain}'::text[])
          and p.proname <> 'gd_close_rate_limit'$$,
    'every call that steers is written down');

select * from finish();
