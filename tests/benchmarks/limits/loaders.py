"""Threads or processes: what loading costs in each, and how much of it holds the interpreter's lock.

--mode threads      our BatchLoader, a thread a core
--mode processes    our load_one in a process a core, each writing its rows into one block of shared memory
--mode lock         one thread, with the decoder and the resizer left out: what is left holds the lock, or waits for
                    the disk. A process cannot load more than 1 / that many photos a second, whatever its cores.
"""

import argparse
import os
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, shared_memory
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.limits.common import say
from tests.benchmarks.peers.common import CROP, SIZE
from transforms import images
from transforms.load_plan import LoadPlan
from transforms.loading import BatchLoader, load_one
from transforms.records import ImageBatch, ImageRef
from transforms.settings import DecodeSettings, LoadSettings, PreprocessSettings
from transforms.threads import LoadThreads

_CHUNK = 16
_BATCH = 128


def plan_of(interpolation: str) -> LoadPlan:
    """Return how the photos are loaded."""
    preprocess = PreprocessSettings(crop_pct=CROP, interpolation=interpolation, value_range="0_255")  # type: ignore[arg-type]
    return LoadPlan(DecodeSettings(), preprocess, SIZE, SIZE, LoadSettings(), _BATCH)


def in_threads(paths: Sequence[str], plan: LoadPlan, workers: int) -> int:
    """Load all photos into batches; return how many came."""
    with LoadThreads(workers) as pool:
        loader = BatchLoader(plan, pool, workers)
        found = [len(one.refs) for path in paths for one in loader.add(ImageRef(path, None, None)) if _is_batch(one)]
        found += [len(one.refs) for one in loader.finish() if _is_batch(one)]  # type: ignore[union-attr]
    return sum(found)


def _is_batch(one: Any) -> bool:
    return isinstance(one, ImageBatch)


def in_processes(paths: Sequence[str], plan: LoadPlan, workers: int) -> int:
    """Load all photos into shared memory, in turns of a few photos; return how many came."""
    chunks = [list(paths[start : start + _CHUNK]) for start in range(0, len(paths), _CHUNK)]
    slots = 4 * workers
    memory = shared_memory.SharedMemory(create=True, size=slots * _CHUNK * plan.height * plan.width * 3)
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_fill, [(memory.name, 0, [], plan)] * workers))  # imports
            tasks = ((memory.name, number % slots, chunk, plan) for number, chunk in enumerate(chunks))
            return sum(pool.map(_fill, tasks))
    finally:
        memory.close()
        memory.unlink()


def _fill(task: tuple[str, int, list[str], LoadPlan]) -> int:
    name, slot, paths, plan = task
    rows: Any = np.frombuffer(_attach(name).buf, np.uint8).reshape(-1, _CHUNK, plan.height, plan.width, 3)
    count = 0
    for row, path in enumerate(paths):
        image = load_one(ImageRef(path, None, None), plan)
        if image.failure is None:
            rows[slot, row] = image.pixels
            count += 1
    return count


_attached: dict[str, shared_memory.SharedMemory] = {}


def _attach(name: str) -> shared_memory.SharedMemory:
    if name not in _attached:
        _attached[name] = shared_memory.SharedMemory(name)
    return _attached[name]


def with_the_lock(paths: Sequence[str], plan: LoadPlan) -> int:
    """Load all photos without decoding or resizing any; return how many came."""
    whole = np.zeros((375, 500, 3), np.uint8)
    small = np.zeros((plan.height, plan.width, 3), np.uint8)
    images.simplejpeg.decode_jpeg = lambda *_, **__: whole
    images.fit = lambda *_, **__: small
    return sum(load_one(ImageRef(path, None, None), plan).failure is None for path in paths)


def processor_seconds() -> float:
    """Return user and system time of this process and of the children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Load a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--interpolation", default="bicubic")
    parser.add_argument("--mode", required=True, choices=["threads", "processes", "lock"])
    parser.add_argument("--report", required=True)
    arguments = parser.parse_args()
    paths = sorted(str(path) for path in arguments.photos.iterdir())
    plan = plan_of(arguments.interpolation)
    workers = os.cpu_count() or 1
    load_one(ImageRef(paths[0], None, None), plan)  # imports
    used, started = processor_seconds(), time.perf_counter()
    if arguments.mode == "threads":
        count = in_threads(paths, plan, workers)
    elif arguments.mode == "processes":
        count = in_processes(paths, plan, workers)
    else:
        count = with_the_lock(paths, plan)
    seconds = time.perf_counter() - started
    say(arguments.report, images=count, seconds=seconds, cpu_seconds=processor_seconds() - used, workers=workers)


if __name__ == "__main__":
    main()
