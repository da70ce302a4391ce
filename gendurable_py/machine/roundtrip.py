"""Whether a state comes back as it was written: what its type says, and what two values say.

Read from the schema that pydantic made of the type. Most types are safe, or safe as soon as the value has exactly the
declared classes: these cost a look at the value. All others are decoded again after they were encoded, and compared.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

import pydantic
from pydantic_core import to_json

Sure = Callable[[Any], bool] | None
"""Whether a value surely comes back; None: all do."""

_NO_NUMBER = re.compile(rb"NaN|Infinity")
_SCALARS = frozenset({str, int, float, bool, type(None)})
_SECRETS = (pydantic.SecretStr, pydantic.SecretBytes, pydantic.Secret)

# What a model may be configured to without a change of what is written or read.
_HARMLESS = frozenset(
    {
        "allow_inf_nan", "cache_strings", "extra_fields_behavior", "from_attributes", "hide_input_in_errors",
        "loc_by_alias", "populate_by_name", "regex_engine", "serialize_by_alias", "str_max_length", "str_min_length",
        "strict", "title", "validate_by_alias", "validate_by_name", "validate_default", "validation_error_cause",
    }
)  # fmt: skip
# By their names in a schema: each is one kind of JSON value, and read as what it was.
_JSON_KINDS = frozenset({"none", "bool", "int", "float", "str"})


class Lost(Exception):
    """A part of a type that cannot come back, whatever its value."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"field {path}: {why}" if path else why)


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """``aliases``: other names under which the fields of a TypedDict are read."""

    by_alias: bool
    sure: Sure
    aliases: frozenset[str]


def survey(schema: Any) -> Survey:
    """How a type is written, and when it surely comes back.

    Raises:
        Lost: never.
    """
    first: Lost | None = None
    for by_alias in (True, False):
        walk = _Walk(by_alias)
        try:
            sure = walk.node(schema, "")
        except Lost as lost:
            first = first or lost
        except (KeyError, TypeError, AttributeError):  # the schema of another pydantic: compare each value
            return Survey(True, _never, frozenset())
        else:
            return Survey(by_alias, sure, frozenset(walk.aliases))
    assert first is not None
    raise first


def is_plain(value: object) -> bool:
    """Whether a value is what `json.loads` gives, down to its last item."""
    # Run for every plain state: loops of one look each, and none in Python over a list of numbers.
    kind = type(value)
    items: Any = value
    if kind is dict:
        for key in items:
            if type(key) is not str:
                return False
        items = items.values()
    elif kind is not list:
        return kind in _SCALARS
    elif items and type(items[0]) in _SCALARS and _SCALARS.issuperset(map(type, items)):
        return True
    for item in items:  # noqa: SIM110 - a generator for each dict costs as much as the dict
        if type(item) not in _SCALARS and not is_plain(item):
            return False
    return True


def _never(value: object) -> bool:
    return False


def _masks(serializer: Any) -> bool:
    where = getattr(serializer, "__module__", None), getattr(serializer, "__qualname__", "")
    return where[0] == "pydantic.types" and "secret" in where[1]


class _Walk:
    def __init__(self, by_alias: bool) -> None:
        self.by_alias = by_alias
        self.aliases: set[str] = set()
        self._definitions: dict[str, Any] = {}
        self._made: dict[str, Sure] = {}

    def node(self, schema: Any, path: str) -> Sure:
        kind: str = schema["type"]
        if kind == "definitions":
            self._definitions |= {each["ref"]: each for each in schema["definitions"]}
            return self.node(schema["schema"], path)
        if kind == "definition-ref":
            return self._reference(schema, path)
        if "serialization" in schema:
            if _masks(schema["serialization"].get("function")):
                raise Lost(path, "a secret is written as asterisks")
            return _never
        make = getattr(self, "_" + kind.replace("-", "_"), None)
        made: Sure = _never if make is None else make(schema, path)
        return made

    def _reference(self, schema: Any, path: str) -> Sure:
        ref: str = schema["schema_ref"]
        if ref not in self._made:
            made = self._made
            # A type that holds itself: by then its own answer is there.
            made[ref] = lambda value: (later := made[ref]) is None or later(value)
            made[ref] = self.node(self._definitions[ref], path)
        return self._made[ref]

    # Values

    def _safe(self, schema: Any, path: str) -> Sure:
        return None

    _none = _bool = _int = _float = _safe

    def _str(self, schema: Any, path: str) -> Sure:
        changes = ("strip_whitespace", "to_lower", "to_upper", "coerce_numbers_to_str")
        return _never if any(schema.get(name) for name in changes) else None

    def _date(self, schema: Any, path: str) -> Sure:
        return lambda value: type(value) is date

    def _datetime(self, schema: Any, path: str) -> Sure:
        # Offsets of whole minutes: the others stand in no ISO text.
        return lambda value: (
            type(value) is datetime and not (value.tzinfo and (value.utcoffset() or timedelta()) % timedelta(minutes=1))
        )

    def _uuid(self, schema: Any, path: str) -> Sure:
        return lambda value: type(value) is UUID

    def _any(self, schema: Any, path: str) -> Sure:
        # where the type says nothing, pydantic writes as null what is no number, or infinite
        return lambda value: is_plain(value) and not _NO_NUMBER.search(to_json(value))

    def _literal(self, schema: Any, path: str) -> Sure:
        return None if len({type(each) for each in schema["expected"]} | {str}) == 1 else _never

    def _enum(self, schema: Any, path: str) -> Sure:
        members = schema["members"]
        if "missing" in schema or {type(each.value) for each in members} not in ({str}, {int}):
            return _never
        return lambda value: isinstance(value, Enum)

    # What holds others

    def _nullable(self, schema: Any, path: str) -> Sure:
        inner = self.node(schema["schema"], path)
        return None if inner is None else lambda value: value is None or inner(value)

    def _default(self, schema: Any, path: str) -> Sure:
        return self.node(schema["schema"], path)

    def _list(self, schema: Any, path: str) -> Sure:
        inner = self.node(schema.get("items_schema", {"type": "any"}), f"{path}[]")
        return None if inner is None else lambda value: type(value) is list and all(map(inner, value))

    def _dict(self, schema: Any, path: str) -> Sure:
        keys = self.node(schema.get("keys_schema", {"type": "any"}), f"{path}{{}}")
        inner = self.node(schema.get("values_schema", {"type": "any"}), f"{path}{{}}")
        if keys is not None or schema["keys_schema"]["type"] not in ("str", "int"):
            return _never
        return None if inner is None else lambda value: type(value) is dict and all(map(inner, value.values()))

    def _tuple(self, schema: Any, path: str) -> Sure:
        for each in schema["items_schema"]:
            self.node(each, f"{path}[]")
        return _never

    def _set(self, schema: Any, path: str) -> Sure:
        self.node(schema.get("items_schema", {"type": "any"}), f"{path}[]")
        return _never

    _frozenset = _set

    def _union(self, schema: Any, path: str) -> Sure:
        choices = [each[0] if isinstance(each, tuple) else each for each in schema["choices"]]
        made = [self.node(each, path) for each in choices]
        kinds = {each["type"] for each in choices}
        simple = kinds <= _JSON_KINDS and len(kinds) == len(choices) and not any(made)
        return None if simple else _never

    def _tagged_union(self, schema: Any, path: str) -> Sure:
        for each in schema["choices"].values():
            self.node(each, path)
        return _never

    def _lax_or_strict(self, schema: Any, path: str) -> Sure:
        return self.node(schema["lax_schema"], path)

    def _function(self, schema: Any, path: str) -> Sure:
        self.node(schema["schema"], path)  # what it refuses is refused behind a validator, too
        return _never

    _function_after = _function_before = _function_wrap = _function

    # What has fields

    def _model(self, schema: Any, path: str) -> Sure:
        cls, config, inner = schema["cls"], schema.get("config", {}), schema["schema"]
        odd = schema.get("custom_init") or schema.get("root_model")
        odd = odd or schema.get("post_init") not in (None, "init_private_attributes")
        while inner["type"].startswith("function-") and "schema" in inner:  # a validator of the whole model
            odd, inner = True, inner["schema"]
        if inner["type"] == "definitions":
            self._definitions |= {each["ref"]: each for each in inner["definitions"]}
            inner = inner["schema"]
        if inner["type"] != "model-fields":
            return _never
        fields = inner["fields"]
        checks = self._fields(fields.items(), config, path)
        extra = inner.get("extra_behavior", config.get("extra_fields_behavior")) == "allow"
        if odd or checks is None or not _HARMLESS.issuperset(config):
            return _never
        most = len(fields)

        def sure(value: Any) -> bool:
            if type(value) is not cls:
                return False
            own = value.__dict__
            if len(own) != most or (extra and not is_plain(value.__pydantic_extra__)):
                return False
            return all(name in own and check(own[name]) for name, check in checks)

        return sure

    def _dataclass(self, schema: Any, path: str) -> Sure:
        cls, config, inner = schema["cls"], schema.get("config", {}), schema["schema"]
        odd = schema.get("post_init")
        while inner["type"].startswith("function-") and "schema" in inner:
            odd, inner = True, inner["schema"]
        if inner["type"] != "dataclass-args":
            return _never
        fields = inner["fields"]
        odd = odd or any(not field.get("init", True) or field.get("init_only") for field in fields)
        checks = self._fields([(field["name"], field) for field in fields], config, path)
        if odd or checks is None or not _HARMLESS.issuperset(config) or config.get("extra_fields_behavior") == "allow":
            return _never
        return lambda value: type(value) is cls and all(check(getattr(value, name)) for name, check in checks)

    def _typed_dict(self, schema: Any, path: str) -> Sure:
        config = schema.get("config", {})
        checks = self._fields(schema["fields"].items(), config, path)
        for field in schema["fields"].values():
            self.aliases.update(_read_under(field.get("validation_alias")))
        if checks is None or not _HARMLESS.issuperset(config) or schema.get("extra_behavior") == "allow":
            return _never
        return lambda value: type(value) is dict and all(check(value[name]) for name, check in checks if name in value)

    def _fields(
        self, fields: Iterable[tuple[str, Any]], config: Mapping[str, Any], path: str
    ) -> list[tuple[str, Callable[[Any], bool]]] | None:
        """The checks of the fields; None: the whole is to be compared."""
        checks: list[tuple[str, Callable[[Any], bool]]] = []
        odd = False
        writers: dict[str, str] = {}
        readers: set[str] = set()
        for name, field in fields:
            at = f"{path}.{name}" if path else name
            if field.get("serialization_exclude"):
                raise Lost(at, "it is excluded from what is written (a private attribute is not part of the state)")
            written, read = self._names(name, field, config, at)
            if written in writers:
                raise Lost(at, f"it is written as {written!r}, as the field {writers[written]} is")
            writers[written] = name
            readers.update(each for each in read if each != written)
            paths = isinstance(field.get("validation_alias"), list)
            odd = odd or read[0] != written or paths or "serialization_exclude_if" in field
            check = self.node(field["schema"], at)
            if check is not None:
                checks.append((name, check))
        # A name that another field is read under, too, may be taken for it.
        return None if odd or not readers.isdisjoint(writers) else checks

    def _names(self, name: str, field: Any, config: Mapping[str, Any], path: str) -> tuple[str, list[str]]:
        """What a field is written as, and what it is read as, the first that is found."""
        written = field.get("serialization_alias", name) if self.by_alias else name
        alias = field.get("validation_alias")
        read = _read_under(alias) if alias is not None and config.get("validate_by_alias", True) else []
        if alias is None or config.get("validate_by_name") or config.get("populate_by_name"):
            read.append(name)
        if written not in read:
            raise Lost(path, f"it is written as {written!r} and read as {' or '.join(map(repr, read)) or 'nothing'}")
        return written, read


def _read_under(alias: Any) -> list[str]:
    """The plain names among the ways to read a field: a path leads into something else."""
    if isinstance(alias, str):
        return [alias]
    ways = alias if alias and isinstance(alias[0], list) else [alias or []]
    return [way[0] for way in ways if len(way) == 1]


def difference(there: Any, back: Any, path: str = "") -> str | None:
    """Where two values differ, as a path; None: they do not."""
    if there is back:
        return None
    pairs: Iterable[tuple[str, Any, Any]]
    if isinstance(there, pydantic.BaseModel):
        if type(there) is not type(back):
            return path or "(its class)"
        own, read = ({**each.__dict__, **(each.__pydantic_extra__ or {})} for each in (there, back))
        names = [name for name in own if name in type(there).model_fields or name in (there.__pydantic_extra__ or ())]
        pairs = ((f"{path}.{name}", own[name], read.get(name, _never)) for name in names)
    elif dataclasses.is_dataclass(there) and not isinstance(there, type):
        if type(there) is not type(back):
            return path or "(its class)"
        names = [field.name for field in dataclasses.fields(there)]
        pairs = ((f"{path}.{name}", getattr(there, name, None), getattr(back, name, None)) for name in names)
    elif isinstance(there, dict) and isinstance(back, dict):
        missing = [key for key in there if key not in back]
        if missing or len(there) != len(back):
            return f"{path}[{_short(missing[0])}]" if missing else path
        pairs = ((f"{path}[{_short(key)}]", item, back[key]) for key, item in there.items())
    elif isinstance(there, (list, tuple)) and type(there) is type(back):
        if len(there) != len(back):
            return path or "(its length)"
        pairs = ((f"{path}[{at}]", one, other) for at, (one, other) in enumerate(zip(there, back, strict=True)))
    else:
        return None if _equal(there, back) else path or "(the value)"
    for at, one, other in pairs:
        found = difference(one, other, at)
        if found is not None:
            return found.lstrip(".")
    return None


def _equal(there: Any, back: Any) -> bool:
    try:
        if there == back or (there != there and back != back):  # NaN
            return True
        # A class without an idea of equality: by what it holds.
        return (
            "__eq__" not in {name for each in type(there).__mro__[:-1] for name in vars(each)}
            and type(there) is type(back)
            and difference(dict(vars(there)), dict(vars(back))) is None
        )
    except Exception:  # noqa: BLE001 - the comparison is code of others
        return False


def _short(key: object) -> str:
    try:
        return repr(key)[:50]
    except Exception:  # noqa: BLE001
        return f"a {type(key).__name__}"


def dropped(given: object, kept: object, known: frozenset[str], path: str = "") -> str | None:
    """A key of a dict that validation let fall, as a path; None: there is none."""
    if not (isinstance(given, Mapping) and type(kept) is dict):
        return None
    for key, item in given.items():
        if key not in kept:
            if key not in known:
                return f"{path}[{_short(key)}]"
        else:
            found = dropped(item, kept[key], known, f"{path}[{_short(key)}]")
            if found is not None:
                return found
    return None


def secret(value: object) -> bool:
    """Whether a secret stands somewhere in a value: it would be written as asterisks."""
    if isinstance(value, _SECRETS):
        return True
    if isinstance(value, pydantic.BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return any(map(secret, getattr(value, "__dict__", {}).values()))
    if isinstance(value, Mapping):
        return any(map(secret, value.values()))
    return isinstance(value, (list, tuple, set, frozenset)) and any(map(secret, value))
