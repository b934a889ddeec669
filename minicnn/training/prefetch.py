"""The next batches of data that comes by number are made while a step runs, by a thread of their own.

Reading and augmenting images takes time in which the model could learn. NumPy and Pillow let go of Python's lock while
they work, so both go on side by side.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from queue import SimpleQueue
from typing import Any

AHEAD = 2  # batches: one being made, one ready


def prefetched(items: Iterable[Any], ahead: int = AHEAD) -> Generator[Any, None, None]:
    """The items, in their order; a thread makes them, at most `ahead` before they are asked for.

    An exception in the making is raised here, where its item would have come, with its own traceback. Close the
    generator, or drop it, and the thread ends as soon as the item in hand is made; it keeps no program from ending.
    """
    room, stop = threading.Semaphore(ahead), threading.Event()
    ready: SimpleQueue = SimpleQueue()
    thread = threading.Thread(target=_work, args=(items, room, ready, stop), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error, more = ready.get()
            if error is not None:
                raise error
            if not more:
                return
            room.release()
            yield item
    finally:
        stop.set()
        room.release()
        # Whoever takes the items on after this must not meet the thread in there. If it waits for ever, it is left.
        thread.join(timeout=1)


def _work(items: Iterable[Any], room: threading.Semaphore, ready: SimpleQueue, stop: threading.Event) -> None:
    try:
        iterator = iter(items)
        while True:
            room.acquire()  # before the item is made, not after: what nobody asks for is not taken from `items`
            if stop.is_set():
                return
            try:
                item = next(iterator)
            except StopIteration:
                break
            ready.put((item, None, True))
            del item
        ready.put((None, None, False))
    except BaseException as error:
        ready.put((None, error, False))
