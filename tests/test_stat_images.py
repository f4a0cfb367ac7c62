"""StatImages by its exact contents, on the local runner."""

import os
import threading
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from transforms import stat_images
from transforms.records import ImageRef
from transforms.settings import LoadSettings
from transforms.stat_images import StatImages
from transforms.storage import stat
from transforms.worklist import Choice, Unasked


def local_pipeline() -> beam.Pipeline:
    """The runner of local runs."""
    return beam.Pipeline(runner="FnApiRunner")


def photo(path: Path, size: int) -> Unasked:
    """A file, as a manifest's line names it, with the version that it has."""
    path.write_bytes(b"x" * size)
    found = stat(str(path))
    assert found is not None
    return Unasked(ImageRef(str(path), None, None), found.version)


@pytest.mark.parametrize("threads", [1, 3])
def test_stat_images_skips_what_is_as_it_was(tmp_path: Path, threads: int) -> None:
    """Of a hundred files four have changed, gone, become a folder, or were never there: those are to do."""
    images = [photo(tmp_path / f"{number:03}", number) for number in range(100)]
    (tmp_path / "001").write_bytes(b"longer than it was")
    os.utime(tmp_path / "002", ns=(5, 5))
    (tmp_path / "003").unlink()
    (tmp_path / "004").unlink()
    (tmp_path / "004").mkdir()
    images.append(Unasked(ImageRef(str(tmp_path / "never"), None, None), "v"))
    changed = stat(str(tmp_path / "001"))
    assert changed is not None
    todo = [
        ImageRef(str(tmp_path / "001"), 18, changed.version),
        ImageRef(str(tmp_path / "002"), 2, "5-2"),
        *[ImageRef(str(tmp_path / name), None, None) for name in ("003", "004", "never")],
    ]
    with local_pipeline() as pipeline:
        out = pipeline | beam.Create(images) | StatImages(LoadSettings(threads=threads))
        assert_that(out.todo, equal_to(todo), "todo")
        assert_that(out.skipped, equal_to([1] * 96), "skipped")


def test_stat_images_asks_no_more_than_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two threads two questions are asked at a time, and sixteen wait."""
    lock = threading.Lock()
    now, most, asked = 0, 0, 0

    def counted(image: Unasked) -> Choice:
        nonlocal now, most, asked
        with lock:
            now, asked = now + 1, asked + 1
            most = max(most, now)
        threading.Event().wait(0.002)
        with lock:
            now -= 1
        return Choice(todo=image.ref)

    monkeypatch.setattr(stat_images, "ask", counted)
    do = stat_images._StatDoFn(LoadSettings(threads=2))
    do.setup()
    do.start_bundle()
    out = []
    for number in range(200):
        out += list(do.process(Unasked(ImageRef(str(number), None, None), "v")))
        assert len(do._under_way) <= 16
    out += [value.value for value in do.finish_bundle()]
    do.teardown()
    assert [ref.path for ref in out] == [str(number) for number in range(200)]
    assert asked == 200
    assert most == 2


def test_stat_images_refuses_windows() -> None:
    """What comes out at the end of a bundle has no window of its own."""
    images = local_pipeline() | beam.Create([Unasked(ImageRef("a", None, None), "v")])
    windowed = images | beam.WindowInto(beam.window.FixedWindows(60))
    with pytest.raises(ValueError, match="StatImages needs globally windowed images"):
        windowed | StatImages(LoadSettings())
