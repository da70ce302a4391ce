-- One turn of a worker that is nothing but psql: claim an invoice, do its step, commit. Says "idle" if none is due.
-- psql_worker.sh repeats it until then. Tables: see psql_worker_schema.sql.
\set ON_ERROR_STOP on

-- The claim is a transaction of its own: from here on nobody else gets this instance for 30 seconds.
select count(*) = 1 as got, max(c.id) as id, max(c.claim_no) as claim_no, max(c.state::text) as state,
    coalesce(max(c.step) = 'start', false) as starts, coalesce(max(c.step) = 'book', false) as books
from gd_claim('psql', 'invoices', 1, '30 seconds') c \gset

\if :got
\if :starts
-- A step without writes of its own: the sum goes into the state.
select 'step start of instance ' || :id || ': ' || c.result
from gd_commit('psql', jsonb_build_array(jsonb_build_object(
    'id', :id, 'claim_no', :claim_no, 'kind', 'next', 'step', 'book',
    'state', :'state'::jsonb || jsonb_build_object('total', (
        select sum((l ->> 'pieces')::int * (l ->> 'cents')::int)
        from jsonb_array_elements(:'state'::jsonb -> 'lines') l))))) c;
\elif :books
-- A step with a write: both are one transaction. If the claim is lost, gd_commit_one raises and the write is undone.
\set ON_ERROR_STOP off
with written as (
    insert into invoice (customer, total)
    values (:'state'::jsonb ->> 'customer', (:'state'::jsonb ->> 'total')::int)
    returning id
)

select 'ok' as book, gd_commit_one('psql', jsonb_build_object(
    'id', :id, 'claim_no', :claim_no, 'kind', 'done', 'result', jsonb_build_object('invoice', w.id))) as nothing
from written w \gset
\set failed :ERROR
\set ON_ERROR_STOP on
\if :failed
-- Tried again after a back-off, until the attempts are used up; "stale" if the claim was lost.
select 'step book of instance ' || :id || ' failed: ' || :'LAST_ERROR_MESSAGE' || ': ' || c.result
from gd_commit('psql', jsonb_build_array(jsonb_build_object(
    'id', :id, 'claim_no', :claim_no, 'kind', 'error', 'error', :'LAST_ERROR_MESSAGE'))) c;
\else
select 'step book of instance ' || :id || ': ' || :'book';
\endif
\else
-- A step that this worker does not know.
select 'unknown step of instance ' || :id || ': ' || c.result
from gd_commit('psql', jsonb_build_array(jsonb_build_object(
    'id', :id, 'claim_no', :claim_no, 'kind', 'stop', 'reason', 'unknown step'))) c;
\endif
\else
\echo idle
\endif
