"""Pages of lists, newest first: the cursor is the id of the last row given."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from app.api.schemas import Page

Row = TypeVar("Row")
Item = TypeVar("Item")


def page(rows: Sequence[Row], limit: int, out: Callable[[Row], Item], id_of: Callable[[Item], str]) -> Page[Item]:
    """Make a page of at most ``limit`` of the rows, of which one more was asked for to see whether others follow."""
    items = [out(row) for row in rows[:limit]]
    return Page(items=items, next_cursor=id_of(items[-1]) if len(rows) > limit else None)
