-- Journals of flows: what workers append with their outcomes. Who writes here has the row of the instance locked, so that nobody
-- else does: the number of entries that a worker counts on is looked at, and then it holds. Here it is not known what an entry
-- means, but for the few that a retry reads.
-- Next: 085_memory.

create or replace function gendurable._entries_problem(p_entries jsonb) returns text
language sql immutable parallel safe as $$
    select case
        when jsonb_path_exists(p_entries, 'strict $[*] ? (
            !(@.type() == "object" && @.k.type() == "string" && @.k like_regex "^.{1,64}$" flag "s")
            || (@.type() == "object" && @.k.type() == "string") is unknown)')
            then 'an entry of a journal must be an object with its kind "k", a text of 1 to 64 characters'
    end
$$;

comment on function gendurable._entries_problem(jsonb) is 'What is wrong with an array of entries, or null.';

create or replace function gendurable._journal_problem(p_journal jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    return case
        when p_journal = 'null' then null
        when jsonb_typeof(p_journal) <> 'object' then 'journal must be a JSON object'
        when p_journal - '{at,add,forget,runs,brief}'::text[] <> '{}' then 'unknown key in journal'
        when coalesce(p_journal -> 'at', 'null') = 'null' then 'the at of journal is missing'
        when gendurable._int_problem(p_journal -> 'at', 'the at of journal', 0) is not null
            then gendurable._int_problem(p_journal -> 'at', 'the at of journal', 0)
        when jsonb_typeof(p_journal -> 'forget') not in ('boolean', 'null') then 'the forget of journal must be true or false'
        when jsonb_typeof(p_journal -> 'runs') not in ('boolean', 'null') then 'the runs of journal must be true or false'
        when jsonb_typeof(p_journal -> 'brief') not in ('boolean', 'null') then 'the brief of journal must be true or false'
        when not coalesce(jsonb_typeof(p_journal -> 'add') = 'array', false)
            then 'the add of journal must be an array of entries'
        when jsonb_array_length(p_journal -> 'add') not between 1 and 10000
            then 'the add of journal must have 1 to 10,000 entries'
        when (p_journal ->> 'at')::numeric + jsonb_array_length(p_journal -> 'add') > gendurable._most_entries()
            then 'a journal has at most 20,000 entries'
        else gendurable._entries_problem(p_journal -> 'add')
    end;
end $$;

comment on function gendurable._journal_problem(jsonb) is 'What is wrong with what an outcome appends to a journal, or null.';

create or replace function gendurable._are_plain_entries(p_journal jsonb) returns boolean
language plpgsql immutable parallel safe as $$
declare
    v_add jsonb;
    v_kind jsonb;
    v_at numeric;
begin
    if jsonb_typeof(p_journal) <> 'object' then
        return false;
    end if;
    v_add := p_journal -> 'add';
    if coalesce(
        p_journal - '{at,add,runs,brief}'::text[] <> '{}' or jsonb_typeof(p_journal -> 'at') <> 'number' or jsonb_typeof(v_add) <> 'array'
            or jsonb_typeof(coalesce(p_journal -> 'runs', 'true')) <> 'boolean'
            or jsonb_typeof(coalesce(p_journal -> 'brief', 'true')) <> 'boolean', true)
    then
        return false;
    end if;
    for v_ord in 0 .. jsonb_array_length(v_add) - 1 loop
        v_kind := v_add -> v_ord -> 'k';
        -- a letter may have four bytes
        if coalesce(jsonb_typeof(v_kind) <> 'string' or octet_length(v_kind #>> '{}'::text[]) not between 1 and 64, true) then
            return false;
        end if;
    end loop;
    v_at := (p_journal -> 'at')::numeric;
    return v_at >= 0 and v_at % 1 = 0 and v_at + jsonb_array_length(v_add) <= gendurable._most_entries()
        and jsonb_array_length(v_add) between 1 and 10000;
end $$;

comment on function gendurable._are_plain_entries(jsonb) is
    'Whether _journal_problem finds nothing, for most of what is appended: it asks for less, and takes a tenth of the time.';

-- One entry of a kind that flows have, behind some: half of that time again.
create or replace function gendurable._is_plain_journal(p_journal jsonb) returns boolean
language sql immutable parallel safe as $$
    select case
        when jsonb_array_length(case when jsonb_typeof(p_journal -> 'add') = 'array' then p_journal -> 'add' else '[]' end) = 1
            and p_journal - '{at,add,brief}'::text[] = '{}' and coalesce(p_journal -> 'brief' = 'true', true)
            and p_journal #>> '{add,0,k}' = any('{step,sleep,signal,childs,timer,retry}'::text[])
            and p_journal ->> 'at' ~ '^[1-9][0-9]{0,3}$'
            then true
        else gendurable._are_plain_entries(p_journal)
    end
$$;

comment on function gendurable._is_plain_journal(jsonb) is
    'Whether an outcome may append this, and it is nothing special.';

create or replace function gendurable._record(p_ids bigint[], p_journals jsonb[]) returns void
language plpgsql as $$
begin
    if (select bool_and(jsonb_array_length(u.journal -> 'add') = 1) from unnest(p_journals) u (journal)) then
        -- as below, without a set for each: mostly they have one entry
        insert into gendurable.journal (instance_id, seq, entry)
        select o.id, case when o.count = o.at then o.at else gendurable._need_entries(o.count, o.at) end + 1,
            o.journal -> 'add' -> 0
        from (
            select u.id, u.journal, (u.journal -> 'at')::int as at, coalesce((
                select j.seq from gendurable.journal j where j.instance_id = u.id order by j.seq desc limit 1), 0) as count
            from unnest(p_ids, p_journals) u (id, journal)
            offset 0
        ) o;
        return;
    end if;
    insert into gendurable.journal (instance_id, seq, entry)
    -- the call, which raises, only where they differ
    select o.id, case when c.count = o.at then o.at else gendurable._need_entries(c.count, o.at) end + e.ord, e.entry
    from (select u.id, u.journal, (u.journal -> 'at')::int as at from unnest(p_ids, p_journals) u (id, journal) offset 0) o
    cross join lateral (
        select coalesce(max(l.seq), 0) as count
        from (select j.seq from gendurable.journal j where j.instance_id = o.id order by j.seq desc limit 1) l
    ) c
    cross join lateral jsonb_array_elements(o.journal -> 'add') with ordinality e (entry, ord);
end $$;

comment on function gendurable._record(bigint[], jsonb[]) is
    'Appends to the journals of instances; raises GD501 where one has other entries than its outcome counts on. Under the locks of the
rows.';

create or replace function gendurable._need_entries(p_there int, p_at int) returns int
language plpgsql immutable as $$
begin
    if p_there <> p_at then
        perform gendurable._invalid(
            format('the journal has %s entries, the outcome appends behind %s', p_there, p_at), null,
            'Read the journal with the claim: gd_journals.');
    end if;
    return p_at;
end $$;

comment on function gendurable._need_entries(int, int) is
    'p_at, the number of entries that an outcome counts on; raises GD501 unless the journal has as many.';

create or replace function gendurable._count_entries(p_id bigint) returns int
language plpgsql stable as $$
begin
    return coalesce(
        (select j.seq from gendurable.journal j where j.instance_id = p_id order by j.seq desc limit 1), 0);
end $$;

comment on function gendurable._count_entries(bigint) is 'How many entries the journal of an instance has.';

create or replace function gendurable._forget_entries(p_outcomes gendurable.outcome[]) returns void
language plpgsql as $$
begin
    delete from gendurable.journal j
    using (
        select o.id, (o.journal -> 'at')::int as at
        from unnest(p_outcomes) o
        where o.journal -> 'forget' = 'true'
        offset 0
    ) u
    where j.instance_id = any(array[u.id]) and j.seq > u.at;
end $$;

comment on function gendurable._forget_entries(gendurable.outcome[]) is
    'Removes from journals what outcomes with forget do not build upon.';

create or replace function gendurable._find_checkpoint(p_id bigint, p_last int = null) returns text
language plpgsql stable as $$
begin
    return (
        select j.entry ->> 'name'
        from gendurable.journal j
        where j.instance_id = p_id and j.seq <= coalesce(p_last, gendurable._most_entries())
            and j.entry ->> 'k' = any('{step,sleep,signal,childs}'::text[])
            -- as names of steps are, and none of those of what is parked
            and octet_length(j.entry ->> 'name') between 1 and gendurable._longest_name() and left(j.entry ->> 'name', 1) <> '('
        order by j.seq desc
        limit 1);
end $$;

comment on function gendurable._find_checkpoint(bigint, int) is
    'The name of the last checkpoint of a flow, of its first p_last entries; null: it has none.';

create or replace function gendurable._find_cut(p_id bigint) returns int
language plpgsql stable as $$
declare
    v_end record;
    v_failed jsonb;
begin
    select j.seq, j.entry into v_end
    from gendurable.journal j
    where j.instance_id = p_id
    order by j.seq desc
    limit 1;
    if v_end.entry ->> 'k' <> 'end' then
        return v_end.seq;
    end if;
    v_failed := v_end.entry -> 'failed';
    if jsonb_typeof(v_failed) = 'number' and v_failed >= '1' and v_failed <= to_jsonb(v_end.seq)
        and (v_failed #>> '{}'::text[])::numeric % 1 = 0
    then
        return (v_failed #>> '{}'::text[])::numeric::int - 1;
    end if;
    return v_end.seq - 1;
end $$;

comment on function gendurable._find_cut(bigint) is
    'Behind how many entries a flow goes on that is tried again: all but its end, and where a checkpoint has failed it, all before that
one. null: it has no journal.';

create or replace function gendurable._begin_again(p_ids bigint[], p_whole boolean, out ids bigint[], out steps text[])
language plpgsql as $$
declare
    v_one record;
begin
    ids := '{}';
    steps := '{}';
    for v_one in
        select i.id, i.step = '(childs)' and i.children_pending = 0 and not p_whole as joined,
            coalesce(m.initial_step, 'start') as first, case when p_whole then 0 else gendurable._find_cut(i.id) end as cut,
            c.count
        from unnest(p_ids) u (id)
        join gendurable.instance i on i.id = any(array[u.id])
        cross join lateral (select gendurable._count_entries(i.id) as count offset 0) c
        left join gendurable.machine m on m.fsm = i.fsm and m.version = i.fsm_version
        where c.count > 0
    loop
        delete from gendurable.journal j where j.instance_id = v_one.id and j.seq > v_one.cut;
        if v_one.cut < gendurable._most_entries() and not p_whole then
            insert into gendurable.journal (instance_id, seq, entry) values (v_one.id, v_one.cut + 1, '{"k": "retried"}');
        end if;
        ids := ids || v_one.id;
        -- What it had waited for it asks for once more: only children that have ended, and that it has not seen, are there still.
        steps := steps || case
            when v_one.joined and v_one.cut = v_one.count then '(childs)'
            else coalesce(gendurable._find_checkpoint(v_one.id), v_one.first)
        end;
    end loop;
end $$;

comment on function gendurable._begin_again(bigint[], boolean) is
    'Cuts the journals of flows that are tried again behind what holds, and marks that; p_whole: they begin from the start. Which of
the instances are flows, and at which step they stand now. Under the locks of the rows.';

create or replace function gendurable._copy_journal(p_from bigint, p_to bigint, p_count int) returns void
language plpgsql as $$
declare
    v_count int;
begin
    insert into gendurable.journal (instance_id, seq, entry)
    select p_to, j.seq, case
        -- what it draws from its seed are keys of effects, too: two flows must not have the same
        when j.entry ->> 'k' = 'start' and jsonb_typeof(j.entry -> 'seed') = 'string' then jsonb_set(
            j.entry, '{seed}', to_jsonb(left(encode(sha256(convert_to(j.entry ->> 'seed' || ' ' || p_to, 'UTF8')), 'hex'), 32)))
        else j.entry end
    from gendurable.journal j
    where j.instance_id = p_from and j.seq <= p_count;
    get diagnostics v_count = row_count;
    if v_count between 1 and gendurable._most_entries() - 1 then
        insert into gendurable.journal (instance_id, seq, entry) values (p_to, v_count + 1, '{"k": "retried"}');
    end if;
end $$;

comment on function gendurable._copy_journal(bigint, bigint, int) is
    'Gives a new instance the first entries of the journal of another one, with a seed of its own and the mark of a retry.';

create or replace function gendurable._need_no_flow(p_id bigint, p_argument text) returns void
language plpgsql as $$
begin
    if (select true from gendurable.journal j where j.instance_id = p_id limit 1) then
        perform gendurable._invalid(p_argument || ' does not go with a flow', 'instance ' || p_id,
            'A flow goes on behind its last checkpoint: leave ' || p_argument || ' out.');
    end if;
end $$;

comment on function gendurable._need_no_flow(bigint, text) is 'Raises GD501 for an instance that has a journal.';
