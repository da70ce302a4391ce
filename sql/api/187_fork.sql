-- A new instance where another one stands, or stood: to run a step once more beside what it has done.
-- Next: 188_export, the whole of an instance as a document.

create or replace function gd_fork(
    p_id bigint, p_no bigint = null, p_step text = null, p_state jsonb = null, p_options jsonb = '{}'
) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off as $$
declare
    v_options jsonb := coalesce(nullif(p_options, 'null'), '{}');
    v_state jsonb := nullif(p_state, 'null');
    v_step text := p_step;
    v_entry record;
    v_new jsonb;
    v_fork bigint;
    v_taken int;                                  -- entries of its journal; null: it has none
begin
    perform gendurable._need_instance(p_id);
    if p_step is not null then
        perform gendurable._need_text(p_step, 'p_step');
    end if;
    perform gendurable._need_object(v_state, 'p_state', 'Leave it out to take the state that is there.');
    perform gendurable._need_options(p_options, '{version,queue,priority,partition_key,unique_key,unique_scope,eligible_at,delay_ms,rate_limit,weight,max_attempts,meta,attributes,expires_at,expires_ms,journal}');

    v_taken := gendurable._choose_entries(p_id, p_no, p_step, v_state, v_options -> 'journal');
    v_options := v_options - 'journal';
    if p_no is not null then
        select h.step, h.state into v_entry from gendurable.history h where h.instance_id = p_id and h.no = p_no;
        if not found then
            perform gendurable._invalid('no such entry in the history', format('entry %s of instance %s', p_no, p_id),
                'gd_history shows the entries that there are; leave p_no out to begin where the instance stands now.');
        end if;
        v_step := coalesce(v_step, v_entry.step);
        v_state := coalesce(v_state, v_entry.state);
        if v_state is null then
            perform gendurable._invalid('the entry has no state', format('entry %s of instance %s', p_no, p_id),
                'Its machine kept its steps alone ("history": "steps"): pass p_state.');
        end if;
    end if;

    select jsonb_build_object(
            'fsm', i.fsm, 'version', i.fsm_version,
            'step', case when v_taken is null then coalesce(v_step, i.step) else gendurable._find_checkpoint(p_id, v_taken) end, 'state', coalesce(v_state, i.state),
            'queue', coalesce(i.home, i.queue), 'priority', i.priority, 'max_attempts', i.max_attempts)
        -- the parser need not know the key where nobody has any
        || case when i.attributes is null then '{}' else jsonb_build_object('attributes', i.attributes) end
        -- a rate limit belongs to the step before which it stands
        || case
            when v_step is null and not v_options ? 'rate_limit'
                then jsonb_build_object('rate_limit', i.rate_limit, 'weight', i.weight)
            else '{}'
        end
        || v_options
        || jsonb_build_object('meta',
            i.meta || coalesce(nullif(v_options -> 'meta', 'null'), '{}')
            || jsonb_build_object('forked_from', i.id)
            || case when p_no is null then '{}' else jsonb_build_object('forked_no', p_no) end)
    into v_new
    from gendurable.instance i
    where i.id = p_id;
    if not found then
        -- it has been removed since it was asked for
        perform gendurable._need_instance(p_id);
    end if;
    v_fork := (gendurable._insert_instances(gendurable._parse_instances(jsonb_build_array(v_new)), null, null, '{}'))[1];
    if v_fork is not null then
        if v_taken > 0 then
            perform gendurable._copy_journal(p_id, v_fork, v_taken);
        end if;
        perform gendurable._note_by_hand('gd_fork', p_id, jsonb_build_object('fork', v_fork, 'no', p_no, 'step', p_step,
            'options', nullif(v_options - '{meta,attributes}'::text[], '{}')), 1);
    end if;
    return v_fork;
end $$;

comment on function gd_fork(bigint, bigint, text, jsonb, jsonb) is
'A new instance of the same machine, which begins where another one stands, or stood: its id, or null when another instance
holds the unique key that it is given. The other one, of whatever status, is only read.

  p_no: an entry of its history (gd_history): the step that gave it, with the state that the step was given. Default: its
    step and its state now
  p_step, p_state: in place of these. An entry without a state (history "steps") needs p_state
  p_options: what gd_insert_many takes, but fsm, step and state; and "journal", of a flow: how many entries of its journal
    the fork takes over. Default: as gd_retry would go on; with p_state none

It takes over version, queue, priority, max_attempts, attributes and meta, with "forked_from", the id, and "forked_no",
the entry; meta of the options comes on top of that. Where it begins at the step before which the other one stands now, it
keeps the rate limit, too. It has no key and no deadline unless the options give it one, and no parent, signals, children
or history; its first step runs now, attempt 0, awaiting nothing. What the steps of the other one have done is done once
more by those of the fork. A flow is forked by its journal, not by p_no or p_step; what the fork draws by chance, and its
idempotency keys, are its own. Raises GD501, GD502, GD503.';

create or replace function gendurable._choose_entries(p_id bigint, p_no bigint, p_step text, p_state jsonb, p_asked jsonb)
returns int
language plpgsql stable as $$
declare
    v_count constant int := gendurable._count_entries(p_id);
    v_asked constant jsonb := nullif(p_asked, 'null');
begin
    if v_asked is not null and (
        gendurable._int_problem(v_asked, 'journal', 0) is not null or (v_asked #>> '{}'::text[])::numeric > v_count)
    then
        perform gendurable._invalid('the option journal must be a number of entries that the journal has',
            format('got %s; it has %s', left(v_asked::text, 100), v_count), 'gd_journal shows the entries that there are.');
    end if;
    if v_count = 0 then
        return null;
    end if;
    if p_no is not null or p_step is not null then
        perform gendurable._invalid('a flow is forked by its journal, not by p_no or p_step', 'instance ' || p_id,
            'Say how many entries of it the fork takes over: p_options => ''{"journal": 5}''.');
    end if;
    return case
        when v_asked is not null then (v_asked #>> '{}'::text[])::numeric::int
        when p_state is not null then 0
        else gendurable._find_cut(p_id)
    end;
end $$;

comment on function gendurable._choose_entries(bigint, bigint, text, jsonb, jsonb) is
    'How many entries of the journal of a flow a fork takes over, by what was asked for; null: it has no journal. Raises GD501.';
