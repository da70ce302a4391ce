"""A directory of pictures, a thumbnail of each by a child of its own, then a contact sheet of all of them.

`python -m examples thumbnails`. The pictures are PGM files (grey, binary), which need no library.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gendurable_py as gd
from gendurable_py import FSM, Child, Context, Done, Next, ScheduleChilds, Stop, job, step

from ._run import Conn

SIDE = 8
"""Pixels of a thumbnail, each way."""


@dataclass
class Picture:
    path: str
    thumbnail: str


@dataclass
class Album:
    directory: str


@job(queue="pictures", max_attempts=3, backoff=lambda attempt: 0.05)
def thumbnail(args: Picture) -> dict[str, object]:
    """One child: reads a picture, writes its thumbnail. Run twice, it writes the same file twice."""
    width, height, pixels = read_pgm(Path(args.path))
    small = bytes(
        _mean(pixels, width, range(y * height // SIDE, (y + 1) * height // SIDE), column, width)
        for y in range(SIDE)
        for column in range(SIDE)
    )
    write_pgm(Path(args.thumbnail), SIDE, SIDE, small)
    return {"thumbnail": args.thumbnail, "from": [width, height]}


class ContactSheet(FSM, queue="albums"):
    State = Album

    @step
    def start(self, ctx: Context[Album]) -> ScheduleChilds:
        directory = Path(ctx.state.directory)
        children = [
            Child(thumbnail, Picture(path=str(path), thumbnail=str(path.with_suffix(".small"))))
            for path in sorted(directory.glob("*.pgm"))
        ]
        # `join` runs once, when the last child has ended; at once if there is none.
        return ScheduleChilds(self.join, children)

    @step
    def join(self, ctx: Context[Album]) -> Next | Stop:
        failed = [child.last_error for child in ctx.childs if child.status != "done"]
        if len(failed) == len(ctx.childs):
            return Stop(f"no thumbnail of {len(failed)} pictures: {failed[:1]}")
        return Next(self.sheet)

    @step
    def sheet(self, ctx: Context[Album]) -> Done:
        # The children of an instance stay with it: a later step still sees them.
        made = [child.result for child in ctx.childs if child.status == "done"]
        rows = []
        for result in made:
            assert isinstance(result, dict)
            rows.append(read_pgm(Path(str(result["thumbnail"])))[2])
        path = Path(ctx.state.directory) / "sheet"
        write_pgm(path, SIDE, SIDE * len(rows), b"".join(rows))
        return Done({"sheet": str(path), "pictures": len(made), "failed": len(ctx.childs) - len(made)})


def _mean(pixels: bytes, width: int, rows: range, column: int, columns: int) -> int:
    left, right = column * columns // SIDE, (column + 1) * columns // SIDE
    inside = b"".join(pixels[y * width + left : y * width + right] for y in rows)
    return sum(inside) // len(inside)


def read_pgm(path: Path) -> tuple[int, int, bytes]:
    """Width, height and pixels of a binary PGM with the header that `write_pgm` gives it."""
    kind, size, depth, pixels = path.read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    if (kind, depth, len(pixels)) != (b"P5", b"255", width * height):
        raise ValueError(f"{path.name} is no picture")
    return width, height, pixels


def write_pgm(path: Path, width: int, height: int, pixels: bytes) -> None:
    # Under another name first: a worker that dies here leaves no half of a picture.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(b"P5\n%d %d\n255\n%s" % (width, height, pixels))
    draft.replace(path)


async def scene(conn: Conn) -> object:
    with tempfile.TemporaryDirectory() as name:
        for number in range(12):
            shades = bytes((x + y + 20 * number) % 256 for y in range(48) for x in range(64))
            write_pgm(Path(name) / f"{number:02}.pgm", 64, 48, shades)
        (Path(name) / "broken.pgm").write_bytes(b"P5\n64 48\n255\ntoo short")
        id = await gd.insert(conn, ContactSheet, Album(directory=name))
        assert id is not None
        ended = await gd.wait(conn, id, timeout=30)
        sheet = read_pgm(Path(name) / "sheet")
        return {"status": ended.status, "result": ended.result, "sheet": sheet[:2]}


SCHEMA = ""
MACHINES, QUEUES = [ContactSheet, thumbnail], {"albums": 2, "pictures": 4}
