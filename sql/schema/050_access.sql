-- What gd_grant gave: names, since a dump is restored where the same role has another number.
create table gendurable.granted (
    role text not null,
    profile text not null,
    primary key (role, profile)
);

comment on table gendurable.granted is 'The profiles that gd_grant gave to roles; an upgrade renews them.';

-- Others may have functions named gd_... in the schema of the API: here stands what is ours.
-- Written by every assembled script, from the comments of the functions and from the views.
-- dump: gendurable.api_object where false
create table gendurable.api_object (
    signature text primary key,
    kind text not null
);

comment on table gendurable.api_object is 'The functions and views of the API.';
