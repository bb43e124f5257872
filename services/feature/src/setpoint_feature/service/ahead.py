"""Working on what comes next while what is done is sent."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import TypeVar

_Item = TypeVar("_Item")


async def ahead(source: AsyncGenerator[_Item, None]) -> AsyncGenerator[_Item, None]:
    """Yields what a source yields, which goes on meanwhile: one item is ready and one is being made.

    What the source raises comes in its place, behind what it had yielded. It is closed in the end, also
    when nobody wants more.
    """
    # Each entry is an item in a list of its own, or what ended the source.
    ready: asyncio.Queue[list[_Item] | Exception | None] = asyncio.Queue(1)

    async def work() -> None:
        end: Exception | None = None
        try:
            async with contextlib.aclosing(source) as items:
                async for item in items:
                    await ready.put([item])
        except Exception as error:
            end = error
        await ready.put(end)

    working = asyncio.create_task(work(), name="work-ahead")
    try:
        while isinstance(found := await ready.get(), list):
            yield found[0]
        if found is not None:
            raise found
    finally:
        working.cancel()
        await asyncio.wait([working])
