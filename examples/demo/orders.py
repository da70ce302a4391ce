"""Reading orders from a file of JSON lines: a line that is no order is reported, the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

ORDERS = Path(__file__).with_name("orders.jsonl")


class Order(BaseModel):
    """One line of the file. `cents` is the price of all pieces together."""

    model_config = ConfigDict(extra="forbid")

    order: PositiveInt
    customer: str
    sku: str
    pieces: PositiveInt
    cents: PositiveInt

    @property
    def key(self) -> str:
        """The unique key of its instance, and the address of its signals."""
        return f"order:{self.order}"


@dataclass(frozen=True, slots=True)
class BadLine:
    number: int
    reason: str


def read(path: Path) -> Iterator[tuple[int, Order | BadLine]]:
    """Each line that is not empty with its number: an order, or why it is none."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                yield number, Order.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                yield number, BadLine(number, f"{where}: {first['msg']}" if where else first["msg"])
