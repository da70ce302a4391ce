"""A state comes back as it was written, or it is refused by name: never anything in between."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import typing as t
import uuid
from dataclasses import dataclass, field
from typing import NotRequired

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, computed_field
from typing_extensions import TypedDict

from gendurable_py import InvalidArgument
from gendurable_py.machine.codec import StateCodec
from gendurable_py.machine.roundtrip import difference, survey


class Inner(BaseModel):
    a: int = 0


class Wider(Inner):
    more: int = 0


class Reads(BaseModel):
    paid: int = Field(0, validation_alias="PAID")


class Writes(BaseModel):
    paid: int = Field(0, serialization_alias="PAID")


class Choices(BaseModel):
    paid: int = Field(0, validation_alias=AliasChoices("PAID", "amount"))


class Path(BaseModel):
    paid: int = Field(0, validation_alias=AliasPath("x", 0))


class Secret(BaseModel):
    token: SecretStr = SecretStr("")


class Excluded(BaseModel):
    paid: int = Field(0, exclude=True)


class Deep(BaseModel):
    lines: list[dict[str, Excluded | None]] = []


@dataclass
class Data:
    paid: t.Annotated[int, Field(validation_alias="PAID")] = 0


class Typed(TypedDict):
    paid: t.Annotated[int, Field(validation_alias="PAID")]


class Twice(BaseModel):
    one: int = Field(0, alias="A")
    paid: int = Field(0, alias="A")


class Behind(BaseModel):
    inner: t.Annotated[Reads, pydantic.AfterValidator(lambda value: value)] = Reads()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Reads, "paid"), (Choices, "paid"), (Path, "paid"), (Secret, "token"), (Excluded, "paid"),
        (Deep, r"lines\[\]{}.paid"), (Data, "paid"), (Typed, "paid"), (Behind, "inner.paid"),
        (Twice, "paid"),
    ],
)  # fmt: skip
def test_a_type_that_never_comes_back_is_refused_with_the_name_of_its_field(kind: t.Any, name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"come back.*field {name}:"):
        StateCodec(kind)


class Named(BaseModel):
    """Both names are read, so its own is written."""

    model_config = ConfigDict(populate_by_name=True)
    paid: int = Field(0, validation_alias="PAID")


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    paid: int = 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return 2 * self.paid


class Private(BaseModel):
    paid: int = 0
    _seen: int = PrivateAttr(0)


class Color(enum.Enum):
    red = "r"
    both = ("r", "b")


class Node(BaseModel):
    next: Node | None = None
    n: int = 0


@dataclass
class Posted:
    n: int
    twice: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.twice = 2 * self.n


class Optional(TypedDict):
    a: int
    b: NotRequired[str]


class Everything(BaseModel):
    model_config = ConfigDict(extra="allow")
    i: int = 0
    s: str = ""
    f: float = 0.0
    any: t.Any = None
    inner: Inner | None = None
    many: list[Inner] = []
    by: dict[int, Inner] = {}
    either: int | str = 0
    when: dt.datetime | None = None
    day: dt.date | None = None
    how_long: dt.timedelta | None = None
    price: decimal.Decimal | None = None
    id: uuid.UUID | None = None
    raw: bytes = b""
    pair: tuple[int, str] | None = None
    some: set[int] = set()
    color: Color = Color.red
    text: pydantic.Json[int] | None = None


NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.timezone(dt.timedelta(hours=2)))


@pytest.mark.parametrize(
    "state",
    [
        Named(paid=5), Writes(paid=5), Computed(paid=5), Private(paid=5), Posted(3),
        Node(n=1, next=Node(n=2, next=Node())),
        Everything(i=10**300, s="\U0001f600", f=-0.0, any={"a": [None, 1.5]}, inner=Inner(a=1), many=[Inner(a=2)]),
        Everything(by={1: Inner(a=3)}, either="1", when=NOW, day=NOW.date(), how_long=dt.timedelta(1, 0, 1)),
        Everything(price=decimal.Decimal("1.10"), id=uuid.UUID(int=7), raw=b"abc", pair=(1, "a"), some={3, 1}),
        Everything(color=Color.red, text="5", extra={"nested": [1]}),  # type: ignore[call-arg, arg-type]
        Everything(i=10**5000),
    ],
    ids=lambda state: type(state).__name__,
)  # fmt: skip
def test_what_can_come_back_does(state: t.Any) -> None:
    codec = StateCodec(type(state))
    try:
        text = codec.encode(state)
    except InvalidArgument:
        assert getattr(state, "i", 0) == 10**5000, "the only one that pydantic cannot read"
        return
    assert difference(state, codec.decode(text.decode())) is None
    assert codec.encode(codec.decode(text.decode())) == text


class Growing(BaseModel):
    n: int = 0

    @pydantic.field_validator("n")
    @classmethod
    def grow(cls, value: int) -> int:
        return value + 1


class Rounded(BaseModel):
    f: t.Annotated[float, pydantic.PlainSerializer(lambda value: round(value, 1))] = 0.0


class Either(BaseModel):
    when: dt.date | str = ""
    one: Inner | Wider | None = None


class Own(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, ser_json_bytes="base64")
    raw: bytes = b""


class Stripped(BaseModel):
    s: t.Annotated[str, pydantic.StringConstraints(strip_whitespace=True)] = ""


class AnyKeys(BaseModel):
    d: dict[int | str, int] = {}
    any: t.Any = None


class Holder(BaseModel):
    inner: Inner = Inner()
    many: list[Inner] = []
    by: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("kind", "state", "name"),
    [
        (Inner, Wider(a=1, more=2), "its class"),
        (Holder, Holder(inner=Wider(a=1, more=2)), "inner"),
        (Holder, Holder(many=[Inner(), Wider(more=2)]), r"many\[1\]"),
        (Holder, Holder(by={"x": Wider(more=2)}), r"by\['x'\]"),
        (Growing, Growing(n=1), "n"),
        (Rounded, Rounded(f=0.12), "f"),
        (Either, Either(when="2026-01-01"), "when"),
        (Own, Own(raw=b"abc"), "raw"),
        (Stripped, Stripped().model_copy(update={"s": " a "}), "s"),
        (AnyKeys, AnyKeys(d={1: 1, "1": 2}), "d"),
        (AnyKeys, AnyKeys(any=(1, 2)), "any"),
        (AnyKeys, AnyKeys(any={"a": {1: 2}}), "any"),
        (AnyKeys, AnyKeys(any={"a": decimal.Decimal(1)}), "any"),
        (Optional, {"a": 1, "typo": 2}, "typo"),
        (Everything, Everything(color=Color.both), "color"),
    ],
)
def test_a_value_that_does_not_come_back_is_refused_with_the_name_of_its_field(
    kind: t.Any, state: t.Any, name: str
) -> None:
    with pytest.raises(InvalidArgument, match=f"(?s)come back as it was written: .*{name}"):
        StateCodec(kind).encode(state)


def test_a_plain_state_keeps_all_its_keys_and_no_secrets() -> None:
    codec = StateCodec[dict[str, t.Any]](None)
    for lost in ({1: 1, "1": 2}, {"a": [{None: 1, "None": 2}]}, {"a": ({True: 1, "true": 2},)}):
        with pytest.raises(InvalidArgument, match="two keys"):
            codec.encode(lost)
    for hidden in ({"a": SecretStr("x")}, {"a": [Everything(any=SecretStr("x"))]}):
        with pytest.raises(InvalidArgument, match="secret"):
            codec.encode(hidden)
    assert codec.decode(codec.encode({1: (1, 2), "2": {"x"}}).decode()) == {"1": [1, 2], "2": ["x"]}


# Over the whole kind: types that are put together at random, with values of theirs.

SCALARS: list[tuple[t.Any, st.SearchStrategy[t.Any]]] = [
    (int, st.integers()),
    (str, st.text(st.characters(codec="utf-8", exclude_characters="\x00"))),
    (bool, st.booleans()),
    (float, st.floats()),
    (bytes, st.binary(max_size=6)),
    (decimal.Decimal, st.decimals()),
    (dt.datetime, st.datetimes(timezones=st.none() | st.timezones())),
    (dt.date, st.dates()),
    (dt.time, st.times()),
    (dt.timedelta, st.timedeltas()),
    (uuid.UUID, st.uuids()),
    (Color, st.sampled_from(Color)),
    (Inner, st.builds(Inner, a=st.integers()) | st.builds(Wider)),
    (Named, st.builds(Named)),
    (Computed, st.builds(Computed)),
    (t.Any, st.recursive(st.integers() | st.text(), lambda x: st.tuples(x, x) | st.dictionaries(st.integers(), x))),
    (t.Literal["a", 1, True], st.sampled_from(["a", 1, True])),
    (pydantic.SecretStr, st.builds(SecretStr, st.text())),
    (t.Annotated[str, pydantic.StringConstraints(to_lower=True)], st.text()),
    (t.Annotated[int, pydantic.BeforeValidator(lambda value: value + 1)], st.integers()),
    (t.Annotated[float, pydantic.PlainSerializer(str)], st.floats()),
]


def holders(inner: st.SearchStrategy[t.Any]) -> st.SearchStrategy[t.Any]:
    one = inner
    return st.one_of(
        one.map(lambda x: (list[x[0]], st.lists(x[1], max_size=3))),  # type: ignore[name-defined]
        one.map(lambda x: (x[0] | None if x[0] is not t.Any else x[0], x[1] | st.none())),
        one.map(lambda x: (dict[str, x[0]], st.dictionaries(st.text(max_size=3), x[1], max_size=3))),  # type: ignore[name-defined]
        one.map(lambda x: (dict[int | str, x[0]], st.dictionaries(st.integers(0, 2) | st.sampled_from("012"), x[1]))),  # type: ignore[name-defined]
        one.map(lambda x: (tuple[x[0], ...], st.lists(x[1], max_size=3).map(tuple))),  # type: ignore[name-defined]
        st.tuples(one, one).map(lambda p: (t.Union[p[0][0], p[1][0]], p[0][1] | p[1][1])),  # noqa: UP007
    )


TYPES = st.recursive(st.sampled_from(SCALARS), holders, max_leaves=4)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "extra": st.sampled_from(["allow", "forbid", "ignore"]),
        "ser_json_bytes": st.just("base64"),
        "ser_json_timedelta": st.just("float"),
        "ser_json_inf_nan": st.sampled_from(["null", "strings"]),
        "populate_by_name": st.booleans(),
        "use_enum_values": st.booleans(),
        "str_strip_whitespace": st.booleans(),
        "strict": st.booleans(),
    },
)
ALIASES = st.sampled_from(
    [{}, {}, {}, {"alias": "A"}, {"validation_alias": "V"}, {"serialization_alias": "S"}, {"exclude": True},
     {"validation_alias": AliasChoices("V", "A")}, {"alias": "A", "serialization_alias": "f0"}]
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_either_refused_or_equal(data: st.DataObject) -> None:
    fields = data.draw(st.lists(st.tuples(TYPES, ALIASES), min_size=1, max_size=3))
    config = data.draw(CONFIGS)
    try:
        kind = pydantic.create_model(
            "Drawn",
            __config__=t.cast("t.Any", config),
            **{f"f{n}": (of[0], Field(**alias)) for n, (of, alias) in enumerate(fields)},  # type: ignore[arg-type]
        )
        codec = StateCodec(kind)
    except (InvalidArgument, pydantic.PydanticUserError, TypeError):
        return
    values = {f"f{n}": data.draw(of[1]) for n, (of, _) in enumerate(fields)}
    try:
        state = kind.model_validate(values, by_name=True, by_alias=False)
    except (pydantic.ValidationError, TypeError):
        state = kind.model_construct(**values)
    try:
        text = codec.encode(state)
    except InvalidArgument:
        return
    assert difference(state, codec.decode(text.decode())) is None


def test_a_type_that_is_safe_costs_no_second_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(BaseModel):
        i: int = Field(0, alias="I")
        s: str | None = None
        many: list[int] = []
        by: dict[str, float] = {}

    codec = StateCodec(Plain)
    monkeypatch.setattr(StateCodec, "decode", lambda *_: pytest.fail("it was read again"))
    codec.encode(Plain(I=1, s="x"))
    codec.encode({"I": 1})


def test_the_schema_of_another_pydantic_means_that_each_value_is_compared() -> None:
    found = survey({"type": "model", "cls": Inner, "schema": {"type": "model-fields"}})
    assert found.sure is not None
    assert not found.sure(Inner())
