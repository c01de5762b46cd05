"""Several devices for one run: which they are, and a process for each from start to end."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..answering import Answering, IsDone
from ..audio.sources import Source
from ..errors import UsageError
from ..records import ErrorRecord, Record
from .run import Feed, GiveUp, Line, Run, Worker
from .worker import Errand

LOG = logging.getLogger("qwen_audio_cli")
_DEVICE = re.compile(r"(?:(?:cuda:)?(?P<number>[0-9]{1,4})|(?P<name>cpu|cuda|mps))")


def parse_devices(text: str) -> list[str]:
    """The devices of a list such as `0,1`, `cuda:0,cuda:1` or `cpu,cpu`; a number is a CUDA device.

    Raises UsageError for what is no device, and for one that is there twice, unless it is `cpu`.
    """
    devices = []
    for item in text.split(","):
        match = _DEVICE.fullmatch(item.strip())
        if match is None:
            raise UsageError(
                f"devices: '{item.strip()}' is no device; "
                "they are named as in 0,1 or cuda:0,cuda:1 or cpu,cpu"
            )
        name = "cuda:0" if match["name"] == "cuda" else match["name"]
        devices.append(name or f"cuda:{int(match['number'])}")
    for device, count in Counter(devices).items():
        if count > 1 and device != "cpu":
            raise UsageError(f"devices: {device} is there twice; only cpu may be")
    return devices


@dataclass(frozen=True, slots=True)
class Fleet:
    """A verified run on several devices, called as the run on one is (`api.Answering`).

    `prepare` makes that run from a device's name, in the worker: it is pickled, and gives records
    in order of completion. `give_up` makes, for each task of the run, the record of a source that a
    worker took to its death. `in_order` keeps the records in the order of the sources.
    """

    devices: Sequence[str]
    prepare: Callable[[str], Answering]
    give_up: Sequence[GiveUp]
    in_order: bool = False

    def __call__(
        self,
        sources: Iterator[Source],
        is_done: IsDone = lambda identifier, name: False,
        /,
    ) -> Iterator[Record | ErrorRecord]:
        """Give a record for each source and task that is not done, those of a source together.

        Closing the iterator ends all workers. A worker that dies gives error records for what it
        held, and the others go on. When iterated, raises what iterating `sources` raises and, once
        no worker is left, the error of the first that could not begin, or of the last that died.
        """
        shares = Counter(self.devices) if "OMP_NUM_THREADS" not in os.environ else Counter()
        feed = Feed(sources)
        workers: list[Worker] = []
        try:
            for device in self.devices:
                workers.append(Worker.start(device))
                sharing = shares[device] if device == "cpu" else 1
                errand = Errand(self.prepare, device, sharing, LOG.getEffectiveLevel())
                workers[-1].send(errand)
            yield from Run(workers, feed, is_done, self.give_up, Line(self.in_order)).records()
        finally:
            feed.close()
            for worker in workers:
                worker.process.kill()  # all at once; what each holds is memory alone
            for worker in workers:
                worker.end()
