"""Fetching models: TF Hub handles from a server on loopback, object stores, and what goes wrong on the way."""

import gzip
import hashlib
import io
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import model_zoo
from tests.hub_server import HubServer
from transforms import model_sources, storage
from transforms.errors import ModelError
from transforms.model_descriptions import fingerprint_model
from transforms.model_sources import cache_folder, local_path, unpack
from transforms.models import load_model
from transforms.settings import ModelSettings, PreprocessSettings


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on loopback, reached without a proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HubServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel to serve."""
    return model_zoo.pooled_model(tmp_path_factory.mktemp("served") / "cats")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty cache."""
    return tmp_path / "cache"


def refusal(handle: str, cache: Path) -> str:
    """Return the text by which a handle is refused; nothing of it may stay in the cache."""
    with pytest.raises(ModelError) as caught:
        local_path(ModelSettings(path=handle, hub_cache=str(cache)))
    left = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".flock"]
    assert left == []
    return str(caught.value)


@pytest.mark.parametrize("outer", [".", "cats"])
def test_hub_archive_is_downloaded_once_and_scores(hub: HubServer, model: Path, cache: Path, outer: str) -> None:
    """A handle is asked for with the hub's query, unpacked into the cache, and not asked for a second time."""
    handle = hub.serve("/google/cats/1", model_zoo.pack(model, outer))
    settings = ModelSettings(path=handle, hub_cache=str(cache))
    for _ in range(2):
        classifier = load_model(settings, PreprocessSettings(value_range="0_1"))
    assert hub.asked == ["/google/cats/1?tf-hub-format=compressed"]
    assert classifier.fingerprint == fingerprint_model(model)
    pixels = model_zoo.photos(2)
    np.testing.assert_allclose(classifier.predict(pixels), model_zoo.expected_logits(pixels / 255), atol=1e-5)


def test_cache_is_shared_with_tensorflow_hub(
    hub: HubServer, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What we downloaded, tensorflow_hub finds in its cache, and the reverse."""
    import tensorflow_hub

    monkeypatch.setenv("TFHUB_CACHE_DIR", str(cache))
    ours, theirs = (hub.serve(path, model_zoo.pack(model)) for path in ("/ours/1", "/theirs/1"))
    assert str(local_path(ModelSettings(path=ours))) == tensorflow_hub.resolve(ours)
    assert tensorflow_hub.resolve(theirs) == str(local_path(ModelSettings(path=theirs)))
    assert len(hub.asked) == 2


def test_parallel_downloads_share_one(
    hub: HubServer, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that want the same handle at once all get it, whole; none meets tensorflow_hub's leaky, slow lock."""
    from tensorflow_hub import resolver

    def met(*_: Any) -> None:
        raise AssertionError("two downloads met at tensorflow_hub's own lock")

    monkeypatch.setattr(resolver, "_wait_for_lock_to_disappear", met)
    handle = hub.serve("/cats/1", model_zoo.pack(model), pause=0.2)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(local_path(ModelSettings(path=handle, hub_cache=str(cache)))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert {fingerprint_model(path) for path in found} == {fingerprint_model(model)}
    assert len(hub.asked) == 1


def test_tar_without_compression_is_unpacked(hub: HubServer, model: Path, cache: Path) -> None:
    """A plain .tar serves as well as a .tar.gz."""
    handle = hub.serve("/cats/1", gzip.decompress(model_zoo.pack(model)))
    assert fingerprint_model(local_path(ModelSettings(path=handle, hub_cache=str(cache)))) == fingerprint_model(model)


def test_cache_folder_is_the_setting_then_the_environment_then_hubs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """model.hub_cache wins over TFHUB_CACHE_DIR; without both it is the folder that tensorflow_hub uses."""
    import tempfile

    monkeypatch.setenv("TFHUB_CACHE_DIR", "/env")
    assert cache_folder(ModelSettings(path="x", hub_cache="/set")) == Path("/set")
    assert cache_folder(ModelSettings(path="x")) == Path("/env")
    monkeypatch.delenv("TFHUB_CACHE_DIR")
    assert cache_folder(ModelSettings(path="x")) == Path(tempfile.gettempdir()) / "tfhub_modules"


def test_missing_handle_is_refused(hub: HubServer, cache: Path) -> None:
    """A 404 is one sentence with the address."""
    handle = hub.handle("/none/1")
    assert refusal(handle, cache) == (
        f"model.path {handle} cannot be downloaded: the server answered 404 Not Found; check the address"
    )


def test_server_that_is_not_there_is_refused(cache: Path) -> None:
    """A refused connection is one sentence with the address."""
    assert "cannot be downloaded: [Errno 111] Connection refused" in refusal("http://127.0.0.1:9/cats/1", cache)


def test_silent_server_is_given_up(hub: HubServer, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops sending is given up after the limit, not waited for."""
    monkeypatch.setattr(model_sources, "STALL_SECONDS", 0.2)
    handle = hub.serve("/cats/1", model_zoo.pack(model), pause=2.0)
    started = time.monotonic()
    assert refusal(handle, cache) == (
        f"model.path {handle} cannot be downloaded: the server sent nothing for 0.2 s; "
        "try again, or download the model and give its folder"
    )
    assert time.monotonic() - started < 1.9


def test_dripping_server_is_given_up(hub: HubServer, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends a byte now and then does not hold a run for ever."""
    monkeypatch.setattr(model_sources, "DOWNLOAD_SECONDS", 0.3)

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        for byte in model_zoo.pack(model)[:20]:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            time.sleep(0.05)

    hub.answers["/cats/1"] = drip
    handle = hub.handle("/cats/1")
    text = refusal(handle, cache)
    assert text.startswith(f"model.path {handle} cannot be downloaded: ")
    assert text.endswith("bytes came in 0.3 s, and not the whole file")


def test_archive_shorter_than_announced_is_refused(hub: HubServer, model: Path, cache: Path) -> None:
    """A connection that ends early leaves nothing in the cache."""
    packed = model_zoo.pack(model)
    handle = hub.serve("/cats/1", packed[:900], announced=len(packed))
    assert refusal(handle, cache) == (
        f"model.path {handle} cannot be downloaded: the download is truncated: 900 of {len(packed):,} bytes came"
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_archive_is_refused_wherever_it_ends(hub: HubServer, model: Path, cache: Path, share: float) -> None:
    """An archive that a server holds only in part is refused, even if it ends between two files."""
    packed = model_zoo.pack(model)
    handle = hub.serve("/cats/1", packed[: int(len(packed) * share)])
    assert refusal(handle, cache) == (
        f"model.path {handle} cannot be downloaded: what came is no whole .tar.gz archive "
        "(Compressed file ended before the end-of-stream marker was reached); check the address, and try again"
    )


def test_page_for_people_is_refused(hub: HubServer, cache: Path) -> None:
    """A web page in place of an archive is refused."""
    handle = hub.serve("/cats/1", b"<html>Sign in</html>")
    assert "what came is no whole .tar.gz archive" in refusal(handle, cache)


def test_failed_download_can_be_repeated(hub: HubServer, model: Path, cache: Path) -> None:
    """After a failure nothing hinders the next attempt."""
    handle = hub.serve("/cats/1", b"broken")
    refusal(handle, cache)
    hub.serve("/cats/1", model_zoo.pack(model))
    assert fingerprint_model(local_path(ModelSettings(path=handle, hub_cache=str(cache)))) == fingerprint_model(model)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../outside.txt", tarfile.REGTYPE),
        ("a/../../outside.txt", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("hard", tarfile.LNKTYPE),
        ("pipe", tarfile.FIFOTYPE),
        ("disk", tarfile.BLKTYPE),
        ("terminal", tarfile.CHRTYPE),
        ("/../outside.txt", tarfile.REGTYPE),
        ("a/./.././../outside.txt", tarfile.DIRTYPE),
    ],
)
def test_archive_writes_nothing_outside_its_folder(tmp_path: Path, name: str, kind: bytes) -> None:
    """Paths that lead out, links, pipes and devices are refused before anything is written."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(member)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(tarfile.TarError, match=r"it holds '.*', which "):
        unpack(tmp_path / "a.tar", folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "folder"]


def test_absolute_names_stay_inside(tmp_path: Path) -> None:
    """A leading slash is dropped, as tar does."""
    member = tarfile.TarInfo("/deep/er/file.txt")
    member.size = 2
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(member, io.BytesIO(b"ok"))
    unpack(tmp_path / "a.tar", tmp_path / "folder")
    assert (tmp_path / "folder" / "deep" / "er" / "file.txt").read_bytes() == b"ok"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the object stores: gs://cats/x and s3://cats/x are <bucket>/cats/x."""
    from pyarrow import fs

    root = tmp_path / "bucket"
    root.mkdir()
    store = fs.SubTreeFileSystem(str(root), fs.LocalFileSystem())
    monkeypatch.setattr(storage, "_remote_filesystem", lambda *_: store)
    return root


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_object_store_is_copied_once_for_each_version(model: Path, bucket: Path, cache: Path, scheme: str) -> None:
    """A model on gs:// or s3:// is copied to the cache; it is copied again only when it changed."""
    shutil.copytree(model, bucket / "models" / "cats")
    settings = ModelSettings(path=f"{scheme}://models/cats/", hub_cache=str(cache))
    first = local_path(settings)
    assert first.name == "cats"
    assert fingerprint_model(first) == fingerprint_model(model)
    (first / "marker").write_text("not copied again")
    assert (local_path(settings) / "marker").exists()
    (bucket / "models" / "cats" / "assets" / "labels.txt").write_text("cat\n")
    second = local_path(settings)
    assert second != first
    assert (second / "assets" / "labels.txt").read_text() == "cat\n"


def test_keras_file_on_an_object_store_is_copied(bucket: Path, cache: Path) -> None:
    """A single file is a model too, and keeps the suffix by which it is told."""
    model_zoo.save_keras(model_zoo.keras_model(), bucket / "m.keras")
    settings = ModelSettings(path="gs://m.keras", hub_cache=str(cache))
    assert load_model(settings, PreprocessSettings(value_range="0_1")).description.format == "keras"


@pytest.mark.usefixtures("bucket")
def test_missing_object_is_refused(cache: Path) -> None:
    """A prefix with nothing below it is one sentence with the address."""
    assert refusal("s3://models/none", cache).startswith("model.path s3://models/none cannot be read: ")


def test_uncompressed_handle_is_read_from_its_bucket(
    hub: HubServer, model: Path, bucket: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TFHUB_MODEL_LOAD_FORMAT=UNCOMPRESSED the hub names the model's place on gs://, and it is read there."""
    monkeypatch.setenv("TFHUB_MODEL_LOAD_FORMAT", "UNCOMPRESSED")
    shutil.copytree(model, bucket / "models" / "cats")

    def point(request: BaseHTTPRequestHandler) -> None:
        request.send_response(303)
        request.send_header("Location", "/elsewhere")
        request.end_headers()
        request.wfile.write(b"gs://models/cats")

    hub.answers["/cats/1"] = point
    path = local_path(ModelSettings(path=hub.handle("/cats/1"), hub_cache=str(cache)))
    assert fingerprint_model(path) == fingerprint_model(model)
    assert hub.asked == ["/cats/1?tf-hub-format=uncompressed"]
    for answer in (hub.serve("/page", b"<html>"), hub.handle("/none")):
        with pytest.raises(ModelError, match=r"has no uncompressed form: .*; unset TFHUB_MODEL_LOAD_FORMAT"):
            local_path(ModelSettings(path=answer, hub_cache=str(cache)))


def test_object_names_write_nothing_outside_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object may be called anything; a name that leads out of the model's folder is refused."""
    url = "s3://models/cats"
    monkeypatch.setattr(storage, "stat", lambda _: None)
    monkeypatch.setattr(storage, "list_folder", lambda _: [storage.FileStat(f"{url}/../../outside.txt", 1, "1")])
    assert refusal(url, cache) == (
        "model.path s3://models/cats holds s3://models/cats/../../outside.txt, whose name leads out of its folder"
    )


def test_local_paths_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local model is used in place: absolute, relative, ~ and file:// alike."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("m", "./m", "~/m", f"{tmp_path}/m/", f"file://{tmp_path}/m"):
        assert local_path(ModelSettings(path=path)) == tmp_path / "m"


def test_unknown_scheme_is_refused() -> None:
    """A scheme that nothing reads is refused with those that are."""
    with pytest.raises(
        ModelError, match=r"hdfs:// of hdfs://m is not supported; use local, s3:// or gs://; or a TF Hub"
    ):
        local_path(ModelSettings(path="hdfs://m"))


def test_name_in_the_cache_is_tensorflow_hubs(hub: HubServer, model: Path, cache: Path) -> None:
    """The folder is the sha1 of the handle."""
    handle = hub.serve("/cats/1", model_zoo.pack(model))
    path = local_path(ModelSettings(path=handle, hub_cache=str(cache)))
    assert path == cache / hashlib.sha1(handle.encode()).hexdigest()  # noqa: S324 - a name
