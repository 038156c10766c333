"""The C library's memory, for a process with many short-lived threads."""

from __future__ import annotations

from typing import Final

from labd.host.libc import LIBC

_M_ARENA_MAX: Final = -8  # malloc.h of glibc


def use_one_arena() -> bool:
    """Have all threads allocate from one arena; tell whether the C library can (mallopt(3)).

    By default glibc gives threads up to eight arenas a CPU, and each keeps what its busiest moment
    took: with threads that come and go by the thousand, memory grows for hours for nothing. They
    run Python, one at a time, so that they never wait for each other here.
    """
    try:
        mallopt = LIBC.mallopt
    except AttributeError:  # not glibc
        return False
    return bool(mallopt(_M_ARENA_MAX, 1))
