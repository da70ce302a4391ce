-- The numbers that the engine holds itself to, each with its reason, and the classes of its advisory locks: what stands here
-- stands nowhere else.
-- Next: 005_shapes, the private types.

create or replace function gendurable._longest_name() returns int
language sql immutable parallel safe as $$
    select 2000
$$;

comment on function gendurable._longest_name() is
    'Bytes of a name or a key: what an index entry holds, however badly it compresses.';

create or replace function gendurable._longest_poll() returns interval
language sql immutable parallel safe as $$
    select interval '60 seconds'
$$;

comment on function gendurable._longest_poll() is
    'No dispatcher sleeps longer than this: a row that is due later needs no wake-up.';

create or replace function gendurable._most_bytes() returns bigint
language sql immutable parallel safe as $$
    select 16000000::bigint
$$;

comment on function gendurable._most_bytes() is
    'Bytes of JSON that one claim of a queue carries, and that an inbox or the children of one row have in it.';

create or replace function gendurable._most_memory() returns int
language sql immutable parallel safe as $$
    select 100000
$$;

comment on function gendurable._most_memory() is
    'Bytes that a session remembers at most: they are read and written as a whole in each claim.';

create or replace function gendurable._most_keys() returns int
language sql immutable parallel safe as $$
    select 500
$$;

comment on function gendurable._most_keys() is
    'How many keys a transaction locks at most: the server has room for some 64 locks a connection.';

create or replace function gendurable._crash_cap() returns int
language sql immutable parallel safe as $$
    select 20
$$;

comment on function gendurable._crash_cap() is 'How many claims in a row may be lost before an instance has failed.';

create or replace function gendurable._dear() returns bigint
language sql immutable parallel safe as $$
    select 1000::bigint
$$;

comment on function gendurable._dear() is 'Index entries from which on a scan is expensive: worth to remember where it stood.';
