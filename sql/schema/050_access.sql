-- What gd_grant gave: names, since a dump is restored where the same role has another number.
create table gendurable.granted (
    role text not null,
    profile text not null,
    primary key (role, profile)
);

comment on table gendurable.granted is 'The profiles that gd_grant gave to roles; an upgrade renews them.';
