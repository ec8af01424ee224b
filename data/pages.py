"""Memory that a forward pass on a CPU frees and takes again."""

from __future__ import annotations

_LARGEST = 2**25
"""The most that glibc learns from, in bytes."""


def keep_freed_pages() -> None:
    """Have the C library reuse freed memory up to 64 MiB, instead of handing it back each time.

    A pass frees and takes the same megabytes in every layer; where every page of them comes from
    the system, cleared, that is a fifth of its time. glibc learns from the largest block that is
    freed: one of 32 MiB makes it keep twice that, in this process from then on. The block is not
    written to, so it costs nothing. Where MALLOC_MMAP_THRESHOLD_ or the like is set, and in other
    C libraries, nothing changes.
    """
    import torch

    torch.empty(_LARGEST - 2**16, dtype=torch.uint8, device="cpu")
