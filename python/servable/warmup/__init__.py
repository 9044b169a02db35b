"""Warm-up requests that run before a version becomes available, and their files (docs/spec/lifecycle.md §20)."""

from servable.warmup._replay import WARM_UP_FILE, WarmUpLoader, WarmUpOptions
from servable.warmup._tf_record import read_records, write_records

__all__ = [
    "WARM_UP_FILE",
    "WarmUpLoader",
    "WarmUpOptions",
    "read_records",
    "write_records",
]
