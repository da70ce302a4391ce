-- The shop's own tables. Each write of a step is made once, however often the step runs: a unique key says so.
create schema shop;

create table shop.stock (
    sku text primary key,
    pieces int not null check (pieces >= 0)
);

create table shop.reservation (
    order_no int primary key,
    sku text not null references shop.stock (sku),
    pieces int not null
);

-- the payment provider: one payment for each idempotency key
create table shop.payment (
    idempotency_key text primary key,
    order_no int not null,
    cents int not null
);

create table shop.shipment (
    id int generated always as identity primary key,
    order_no int not null unique,
    sku text not null,
    pieces int not null
);

create table shop.mail (
    message_id text primary key,
    customer text not null,
    body text not null
);

-- not needed by the shop: it shows which process ran what, and how often
create table shop.step_run (
    id bigint generated always as identity primary key,
    instance_id bigint not null,
    order_no int not null,
    step text not null,
    attempt int not null,
    pid int not null
);

insert into shop.stock (sku, pieces) values ('lamp', 100), ('desk', 100), ('chair', 100), ('shelf', 100);
