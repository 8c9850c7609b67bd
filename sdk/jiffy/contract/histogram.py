"""Histograms of durations, as an invoker counts them and a gateway shows them. Pure.

One table of bounds for all: what travels is (one count per bucket and one for what lies beyond, the sum in µs).
"""

from __future__ import annotations

from bisect import bisect_left

BUCKETS_US = (
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    5_000_000,
    30_000_000,
)

Packed = tuple[tuple[int, ...], int]  # counts, sum in µs


class Histogram:
    """One look into a short table and two additions for each duration."""

    __slots__ = ("counts", "sum_us")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_US) + 1)
        self.sum_us = 0

    def observe(self, us: int) -> None:
        self.counts[bisect_left(BUCKETS_US, us)] += 1
        self.sum_us += us

    def packed(self, at_once: int = 0) -> Packed:
        """With `at_once` more that took no time worth counting."""
        return (self.counts[0] + at_once, *self.counts[1:]), self.sum_us
