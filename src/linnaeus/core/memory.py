"""Whether freed memory stays with the program, for the next tensor, or goes back to the system."""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt (malloc.h)
_NEVER, _LARGE = 2**31 - 1, 2**30  # bytes
_OWN_CHOICE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """From here on memory that is freed stays with the process. On Linux with the GNU C library, and nowhere else.

    It gives blocks of many megabytes back at once, and asks the system anew for those of the next layer, which come in
    pages of 4 KiB, each cleared first. On a CPU that can take longer than to compute them (figures: `docs/log.md`).
    A process then stays as large as it ever was.

    It holds for all of the process, so that commands call it and the library never does. Someone's own choice, by
    variables of the environment, is left alone.
    """
    mallopt = _of_the_library("mallopt")
    if mallopt is not None and not any(name in os.environ for name in _OWN_CHOICE):
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def return_freed_memory() -> None:
    """Gives the system back what is free now, so that the size of the process says what is in use."""
    trim = _of_the_library("malloc_trim")
    if trim is not None:
        trim(0)


def _of_the_library(name: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
