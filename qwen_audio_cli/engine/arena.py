"""Where the keys and values of all requests lie: contiguous extents of rows in one arena.

A request's extent is reserved when the request is opened, since its final length is known then
(prompt + longest answer): there are no pages, no block tables and no pre-emption.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

SCRATCH = 1
"""Rows at the arena's begin that belong to nobody: what fills a step up is written there."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What a decoder keeps of every position: per layer, keys and values of `heads` x `width`.

    `devices` has one entry a layer, since a model may be spread over several.
    """

    heads: int
    width: int
    dtype: torch.dtype
    devices: tuple[torch.device, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes that one position takes in all layers together."""
        return 2 * len(self.devices) * self.heads * self.width * self.dtype.itemsize


@dataclass(slots=True, eq=False)
class Extent:
    """The rows `start` to `start + capacity` of an arena; the first `length` of them are filled."""

    start: int
    capacity: int
    length: int = 0


class Holes:
    """The free rows of an arena: runs in ascending order, merged where they touch."""

    def __init__(self, start: int, stop: int) -> None:
        self._runs = [(start, stop)]

    @property
    def rows(self) -> int:
        """How many rows are free."""
        return sum(stop - start for start, stop in self._runs)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """The free runs, each from start to stop."""
        return list(self._runs)

    def take(self, rows: int) -> int | None:
        """The start of a run of `rows`, from the smallest hole that has them; None without one."""
        fitting = [run for run in self._runs if run[1] - run[0] >= rows]
        if not fitting:
            return None
        start, stop = min(fitting, key=lambda run: (run[1] - run[0], run[0]))
        self._runs.remove((start, stop))
        if stop - start > rows:
            self._insert(start + rows, stop)
        return start

    def give(self, start: int, rows: int) -> None:
        """Free a run that was taken."""
        self._insert(start, start + rows)

    def _insert(self, start: int, stop: int) -> None:
        merged: list[tuple[int, int]] = []
        for run in self._runs:
            if run[1] == start:
                start = run[0]
            elif run[0] == stop:
                stop = run[1]
            else:
                merged.append(run)
        self._runs = sorted([*merged, (start, stop)])


class Arena:
    """Keys and values by layer, each [rows, heads, width], and who has which rows of them."""

    def __init__(self, shape: CacheShape, rows: int) -> None:
        """Reserve room for `rows` positions; the operating system provides it as it is written."""
        size = (SCRATCH + rows, shape.heads, shape.width)
        self.shape = shape
        self.rows = rows
        self.keys, self.values = (
            [torch.empty(size, dtype=shape.dtype, device=device) for device in shape.devices]
            for _ in range(2)
        )
        for layer in (*self.keys, *self.values):
            layer[:SCRATCH] = 0
        self._holes = Holes(SCRATCH, SCRATCH + rows)
        self._extents: set[Extent] = set()

    @property
    def free(self) -> int:
        """How many rows are free, in however many holes."""
        return self._holes.rows

    @property
    def holes(self) -> list[tuple[int, int]]:
        """The free runs of rows."""
        return self._holes.runs

    def open(self, capacity: int) -> Extent:
        """An empty extent. Raises MemoryError where fewer rows than that are free."""
        if capacity > self.free:
            raise MemoryError(f"{capacity} rows of the cache are needed, {self.free} are free")
        start = self._holes.take(capacity)
        if start is None:
            self._compact()
            start = self._holes.take(capacity)
        assert start is not None
        extent = Extent(start, capacity)
        self._extents.add(extent)
        return extent

    def close(self, extent: Extent) -> None:
        """Free an extent."""
        self._extents.remove(extent)
        self._holes.give(extent.start, extent.capacity)

    def grow(self, extent: Extent, capacity: int, keep: int) -> Extent:
        """Another extent with the first `keep` rows of this one, which is freed.

        Raises MemoryError, with the extent as it was, where there is no room for both.
        """
        larger = self.open(capacity)
        self._move(extent.start, larger.start, keep)
        larger.length = keep
        self.close(extent)
        return larger

    def _compact(self) -> None:
        """Move all extents to the begin, so that the free rows are one run."""
        end = SCRATCH
        for extent in sorted(self._extents, key=lambda extent: extent.start):
            self._move(extent.start, end, extent.length)
            extent.start = end
            end += extent.capacity
        self._holes = Holes(end, SCRATCH + self.rows)

    def _move(self, source: int, target: int, rows: int) -> None:
        if source == target or not rows:
            return
        for layer in (*self.keys, *self.values):
            layer[target : target + rows] = layer[source : source + rows].clone()
