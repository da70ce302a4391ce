-- The table that the psql worker writes, and its machine: where new instances start, and in which queue.
create table invoice (
    id int generated always as identity primary key,
    customer text not null,
    total int not null
);

select gd_register('invoice', 1, 'start', 'invoices');
