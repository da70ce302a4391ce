-- What instances are searched by: a row for each word of their attributes (kernel/069_attributes). Written where attributes are, and
-- not by claims and commits; an instance without any has none. It goes with its instance (_remove_instances).
create table gendurable.attribute (
    instance_id bigint not null,
    word text collate "C" not null,
    primary key (instance_id, word)
);

comment on table gendurable.attribute is 'The words by which instances with attributes are found: "key=value".';

-- gd_list, gd_count, gd_match: the newest with a word. A GIN index on the attributes would not know which are the newest, and reads
-- all that have the word; a commit would have to write its words again.
create index attribute_word on gendurable.attribute (word, instance_id);
