-- Journals of flows: what workers append with their outcomes. Who writes here has the row of the instance locked, so that nobody
-- else does: the number of entries that a worker counts on is looked at, and then it holds. Here it is not known what an entry
-- means, but for the few that a retry reads.
-- Next: 085_memory.

create or replace function gendurable._journal_problem(p_journal jsonb) returns text
language plpgsql immutable parallel safe as $$
begin
    return case
        when p_journal = 'null' then null
        when jsonb_typeof(p_journal) <> 'object' then 'journal must be a JSON object'
        when p_journal - '{at,add,forget}'::text[] <> '{}' then 'unknown key in journal'
        when coalesce(p_journal -> 'at', 'null') = 'null' then 'the at of journal is missing'
        when gendurable._int_problem(p_journal -> 'at', 'the at of journal', 0) is not null
            then gendurable._int_problem(p_journal -> 'at', 'the at of journal', 0)
        when jsonb_typeof(p_journal -> 'forget') not in ('boolean', 'null') then 'the forget of journal must be true or false'
        when not coalesce(jsonb_typeof(p_journal -> 'add') = 'array', false)
            then 'the add of journal must be an array of entries'
        when jsonb_array_length(p_journal -> 'add') not between 1 and 10000
            then 'the add of journal must have 1 to 10,000 entries'
        when (p_journal ->> 'at')::numeric + jsonb_array_length(p_journal -> 'add') > gendurable._most_entries()
            then 'a journal has at most 20,000 entries'
        when jsonb_path_exists(p_journal, 'strict $.add[*] ? (
            !(@.type() == "object" && @.k.type() == "string" && @.k like_regex "^.{1,64}$" flag "s")
            || (@.type() == "object" && @.k.type() == "string") is unknown)')
            then 'an entry of journal must be an object with its kind "k", a text of 1 to 64 characters'
    end;
end $$;

comment on function gendurable._journal_problem(jsonb) is 'What is wrong with what an outcome appends to a journal, or null.';

create or replace function gendurable._record(p_outcomes gendurable.outcome[]) returns void
language plpgsql as $$
begin
    -- mostly every journal is as long as its outcome says, and nothing is forgotten
    if (
        select true
        from unnest(p_outcomes) o
        where o.journal is not null and (
            o.journal -> 'forget' = 'true'
            or (o.journal ->> 'at')::numeric <> coalesce((
                select j.seq from gendurable.journal j where j.instance_id = o.id order by j.seq desc limit 1), 0))
        limit 1)
    then
        perform gendurable._forget_entries(p_outcomes);
    end if;
    insert into gendurable.journal (instance_id, seq, entry)
    select o.id, (o.journal ->> 'at')::numeric::int + e.ord, e.entry
    from unnest(p_outcomes) o
    cross join lateral jsonb_array_elements(o.journal -> 'add') with ordinality e (entry, ord)
    where o.journal is not null;
end $$;

comment on function gendurable._record(gendurable.outcome[]) is
    'Appends to journals what outcomes say; raises GD501 where one has other entries than its outcome counts on. Under the locks of
the rows.';

create or replace function gendurable._count_entries(p_id bigint) returns int
language plpgsql stable as $$
begin
    return coalesce(
        (select j.seq from gendurable.journal j where j.instance_id = p_id order by j.seq desc limit 1), 0);
end $$;

comment on function gendurable._count_entries(bigint) is 'How many entries the journal of an instance has.';

create or replace function gendurable._forget_entries(p_outcomes gendurable.outcome[]) returns void
language plpgsql as $$
declare
    v_bad record;
begin
    delete from gendurable.journal j
    using (
        select o.id, (o.journal ->> 'at')::numeric::int as at
        from unnest(p_outcomes) o
        where o.journal -> 'forget' = 'true'
        offset 0
    ) u
    where j.instance_id = any(array[u.id]) and j.seq > u.at;
    select o.journal ->> 'at' as at, gendurable._count_entries(o.id) as there into v_bad
    from unnest(p_outcomes) o
    where o.journal is not null and (o.journal ->> 'at')::numeric <> gendurable._count_entries(o.id)
    limit 1;
    if found then
        perform gendurable._invalid(
            format('the journal has %s entries, the outcome appends behind %s', v_bad.there, v_bad.at), null,
            'Read the journal with the claim: gd_journals.');
    end if;
end $$;

comment on function gendurable._forget_entries(gendurable.outcome[]) is
    'Removes from journals what outcomes with forget do not build upon; raises GD501 where a journal has other entries then than its
outcome counts on.';
