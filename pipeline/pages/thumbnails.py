"""Small pictures of images, written into a page; of one that cannot be shown, the reason.

Images are read and decoded as a run does it: the same limits, the same worker processes where `decode.quarantine` asks
for them. A picture is never worth a night: all of a page have so much time together, and what hangs is left behind.
"""

import base64
import functools
import io
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from transforms.errors import FailureCode, ImageError, RunError
from transforms.headers import probe
from transforms.images import Decoded, decode_cost
from transforms.load_plan import LoadPlan
from transforms.loading import LoadedImage, Prepared, load_one, prepare
from transforms.memory import ByteBudget
from transforms.orientation import jpeg_orientation, turn
from transforms.quarantine import Quarantine
from transforms.records import ImageInfo, ImageRef
from transforms.resizing import fit
from transforms.settings import DecodeSettings, LoadSettings, PreprocessSettings
from transforms.threads import LoadThreads

SIDE = 160
"""Pixels of the longer side of a picture, if nothing else is asked for."""
SECONDS = 20.0
"""What all pictures of a page may take together, if nothing else is asked for."""
_THREADS = 4
_JPEG_QUALITY = 78
_DAMAGED = (FailureCode.TRUNCATED_IMAGE, FailureCode.CORRUPT_IMAGE)


class Thumbnail(NamedTuple):
    """A picture for a page, or why there is none."""

    path: str
    """The image."""
    uri: str | None
    """data:image/jpeg;base64,... for `src`; None where there is no picture."""
    width: int
    """Of the picture, in pixels; 0 where there is none."""
    height: int
    """Of the picture, in pixels; 0 where there is none."""
    reason: str | None
    """Why there is none, in one sentence; None where there is one."""


def thumbnails(
    paths: Sequence[str],
    decode: DecodeSettings,
    *,
    side: int = SIDE,
    seconds: float = SECONDS,
    load: Callable[..., LoadedImage] = load_one,
) -> dict[str, Thumbnail]:
    """Make pictures of images, in threads.

    Args:
        paths: Absolute paths or URLs, as tables hold them; each is read once.
        decode: The limits of the run that has scored them.
        side: Pixels of the longer side.
        seconds: After this time, what is not done has no picture.
        load: Loads one image; replaced in tests only.

    Returns:
        One a path. A damaged JPEG is shown as far as it can be decoded, if not in quarantine.
    """
    wanted = list(dict.fromkeys(paths))
    if not wanted:
        return {}
    plan = _plan(decode, side, seconds)
    found: dict[str, Thumbnail] = {}
    done: queue.SimpleQueue[Thumbnail] = queue.SimpleQueue()
    until = time.monotonic() + seconds
    at_work: dict[str, threading.Thread] = {}
    with ExitStack() as closing:
        threads = closing.enter_context(LoadThreads(min(_THREADS, len(wanted)), name="thumbnails"))
        quarantine = closing.enter_context(Quarantine(plan)) if decode.quarantine else None
        budget = ByteBudget(plan.load.max_bytes_in_flight)
        prepare_with = quarantine.prepare if quarantine else prepare_what_is_left
        work = functools.partial(load, plan=plan, budget=budget, prepare_with=prepare_with)
        for path in wanted:
            threads.submit(functools.partial(_make, path, side, until, work, done, at_work))
        while len(found) < len(wanted):
            try:
                thumbnail = done.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            found[thumbnail.path] = thumbnail
        for thread in at_work.copy().values():
            threads.replace(thread)  # so that nobody waits for it
    late = f"there was no time left: all pictures of a page have {seconds:g} s together"
    return {path: found.get(path) or Thumbnail(path, None, 0, 0, late) for path in wanted}


def encode_thumbnail(path: str, pixels: npt.NDArray[np.uint8]) -> Thumbnail:
    """Write pixels as a picture of a page: what a model sees, for one.

    Args:
        path: The image that they are of.
        pixels: uint8[H, W, 3], RGB.
    """
    written = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(written, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")
    return Thumbnail(path, uri, pixels.shape[1], pixels.shape[0], None)


def prepare_what_is_left(data: bytes, plan: LoadPlan) -> Prepared:
    """Make pixels as a run does; of a damaged JPEG, as far as it can be decoded: grey stands for what is gone.

    Raises:
        ImageError: As loading.prepare.
    """
    try:
        return prepare(data, plan)
    except ImageError as error:
        if error.code not in _DAMAGED:
            raise
        header = probe(data)
        settings = plan.decode
        pixels = header.width * header.height
        # A file that is cut was refused before anything was asked about its size.
        too_large = decode_cost(header, len(data)) > settings.max_decode_bytes
        too_long = header.scans * pixels > settings.max_scan_pixels
        if header.format != "jpeg" or header.components == 4 or too_large or too_long:
            raise
        try:
            left = simplejpeg.decode_jpeg(data, "RGB", strict=False)
        except ValueError:
            raise error from None
        turned = turn(left, jpeg_orientation(data))
        info = ImageInfo(turned.shape[1], turned.shape[0], "jpeg", len(data), "simplejpeg")
        return Decoded(fit(turned, plan.preprocess, plan.height, plan.width), info)


def _plan(decode: DecodeSettings, side: int, seconds: float) -> LoadPlan:
    # Bars at two sides say nothing: they are cut off again. The image is never cut.
    preprocess = PreprocessSettings(value_range="0_255", resize="letterbox", interpolation="bilinear")
    most = max(decode.max_decode_bytes, 1024**2)
    load = LoadSettings(threads=_THREADS, read_timeout_seconds=seconds, max_bytes_in_flight=most)
    return LoadPlan(decode, preprocess, side, side, load, batch_size=1)


def _make(
    path: str,
    side: int,
    until: float,
    load: Callable[[ImageRef], LoadedImage],
    done: queue.SimpleQueue[Thumbnail],
    at_work: dict[str, threading.Thread],
) -> None:
    """Make one picture; whatever happens, say how it ended, for somebody waits."""
    if time.monotonic() >= until:
        return  # nobody waits any more
    at_work[path] = threading.current_thread()
    try:
        loaded = load(ImageRef(path, None, None))
        if loaded.failure is not None:
            thumbnail = Thumbnail(path, None, 0, 0, f"{loaded.failure.code}: {loaded.failure.message}")
        else:
            thumbnail = encode_thumbnail(path, _without_bars(loaded, side))
    except RunError as error:
        thumbnail = Thumbnail(path, None, 0, 0, str(error))
    except Exception as error:  # noqa: BLE001  foreign code over any bytes: it costs its picture, never the page
        thumbnail = Thumbnail(path, None, 0, 0, f"{type(error).__name__}: {error}")
    del at_work[path]
    done.put(thumbnail)


def _without_bars(loaded: LoadedImage, side: int) -> npt.NDArray[np.uint8]:
    """Cut off what letterboxing has added: as `resizing.fit` puts it there."""
    if loaded.info is None or not isinstance(loaded.pixels, np.ndarray):
        raise TypeError(f"{loaded.ref.path} was loaded without pixels")
    scale = side / max(loaded.info.width, loaded.info.height)
    tall = min(side, max(1, round(loaded.info.height * scale)))
    wide = min(side, max(1, round(loaded.info.width * scale)))
    top, left = (side - tall) // 2, (side - wide) // 2
    return loaded.pixels[top : top + tall, left : left + wide]
