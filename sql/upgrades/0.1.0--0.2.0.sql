-- From 0.1.0 to 0.2.0: what changed in the tables. The functions are made anew after this.

-- Helpers are private, and all that are still there are made anew: what is called otherwise now, or answers otherwise, goes.
do $$
declare
    v_path constant text := pg_catalog.current_setting('search_path');
    v_helper record;
begin
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    for v_helper in
        select p.oid::regprocedure as signature from pg_proc p where p.pronamespace = 'gendurable'::regnamespace
    loop
        execute 'drop function ' || v_helper.signature;
    end loop;
    perform pg_catalog.set_config('search_path', v_path, true);
end $$;

-- Claims

alter type gendurable.candidate add attribute heavy boolean;

create table gendurable.doubtful_key (
    partition_key text not null
);

comment on table gendurable.doubtful_key is 'Partition keys whose first rows must be lifted when nobody holds their locks.';

alter table gendurable.doubtful_key replica identity full;
