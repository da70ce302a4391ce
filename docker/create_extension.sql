-- Runs once, in POSTGRES_DB, when the container makes its data folder.
create extension if not exists gendurable;
