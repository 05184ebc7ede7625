"""The thread of a process that runs the network, and the memory that the C library keeps for it between windows."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
"""Parameters of glibc's ``mallopt``, from its malloc.h."""

_NON_MAIN_ARENA = 4
"""Bit in the size of a block of glibc's: the block is not in the main arena."""

_MOST_THREADS = 64
"""How many threads are started at most until one of them takes its memory from the main arena."""


class InferenceThread:
    """One thread that runs callables one after the other, with memory that stays with the process.

    Libraries keep a pool of threads and freed memory for each thread that calls them, so that a network should always
    be called by the same one. Leaving the context ends the thread.

    glibc gives each thread one of several arenas. All but the main one hold blocks in heaps of 64 MiB, map larger
    blocks, and unmap both when they are free: the activations of windows of 2048² pixels then cost 350,000 page faults
    a forward, and a third of its time. So the thread is one that was given the main arena. ``MALLOC_ARENA_MAX=1`` in
    the environment gives it to every thread (``WORKER_ENVIRONMENT``); in a process without it glibc is told now, and
    threads are started until one has it, since arenas that exist already are given away in turns.
    """

    def __init__(self) -> None:
        """Tell glibc to keep memory, and start the thread."""
        keep_freed_memory()
        executors: list[ThreadPoolExecutor] = []
        while len(executors) < _MOST_THREADS:
            executors.append(ThreadPoolExecutor(1, "inference"))
            if executors[-1].submit(_is_in_main_arena).result():
                break
        self._executor = executors.pop()
        for executor in executors:  # only now, since the next thread would take the arena of one that has ended
            executor.shutdown(wait=False)

    def __enter__(self) -> InferenceThread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.shutdown()

    def run(self, work: Callable[[], T]) -> T:
        """Run a callable in the thread, after those submitted before it, and return its result."""
        return self._executor.submit(work).result()


def run_on_inference_thread(work: Callable[..., T], *arguments: object) -> T:
    """Run a function in an inference thread of its own, as a run does with the network, and return its result.

    Args:
        work: the function.
        *arguments: its arguments.
    """
    with InferenceThread() as thread:
        return thread.run(lambda: work(*arguments))


def keep_freed_memory() -> None:
    """Make glibc keep freed memory in the process, for the next window; elsewhere do nothing.

    Activations are tens of megabytes each. By default glibc maps and unmaps each of them, and the kernel clears the
    pages every time: half of a U-Net's time on windows of 1024² pixels and more, as measured. Threads that are started
    later share the main arena, as far as there is no other one yet.
    """
    with suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        if not libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30):  # older versions of glibc take half a heap at most
            libc.mallopt(_M_MMAP_MAX, 0)


def _is_in_main_arena() -> bool:
    """Return whether glibc gives this thread memory from its main arena; true where there is no glibc."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    except (OSError, AttributeError):
        return True
    block = libc.malloc(1 << 16)  # more than what a thread caches, less than what is mapped
    if not block:
        return True
    size = ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value  # glibc's, before each block
    libc.free(block)
    return not size & _NON_MAIN_ARENA
