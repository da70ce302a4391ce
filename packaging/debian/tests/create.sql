-- One instance from its insert to its end, by the functions of the extension as the package has it.
create extension gendurable;
select extversion, gd_version() from pg_extension where extname = 'gendurable';
do $$
declare
    v_id bigint := gd_insert('greeting', '{"name": "Ada"}');
    v_claim record;
begin
    select * into strict v_claim from gd_claim('package');
    assert v_claim.id = v_id, 'another instance was claimed';
    perform gd_commit('package', jsonb_build_array(jsonb_build_object(
        'id', v_claim.id, 'claim_no', v_claim.claim_no, 'kind', 'done', 'result', 7)));
    assert (select r.status = 'done' and r.result = '7' from gd_result(v_id) r), 'it has not ended';
end $$;
alter extension gendurable update;
drop extension gendurable;
