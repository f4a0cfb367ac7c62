"""What of the inputs is listed by itself: folders below a folder, splits of a manifest, or an input as it is.

A folder is taken apart level by level, until there are enough shards to keep many workers busy or no folders are left:
YYYY/MM/DD gives one shard a day, not one a year. What lies beside the folders on the way is listed on the way.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from transforms import storage
from transforms.inputs import (
    BadName,
    InputSource,
    Search,
    find_search,
    image_filter,
    list_input,
    manifest_of,
    resolve_entries,
)
from transforms.levels import Level, list_below, list_level
from transforms.manifest_splits import SPLIT_BYTES, plan_splits
from transforms.manifests import Split
from transforms.records import ImageRef
from transforms.settings import InputSettings
from transforms.storage import FileStat

ENOUGH_SHARDS = 256
"""Several for each worker that lists, so that one large folder does not hold up the rest for long."""
MOST_FOLDERS = 4096
"""A folder with more folders is listed in one go: a request for each would cost more than one for each 1,000 files."""
# A chain of single folders is followed so far.
_DEEPEST = 16
# As many levels are asked for at a time.
_THREADS = 16


class FolderShard(NamedTuple):
    """A folder that is listed with all below it."""

    search: Search
    """Which search it is a part of."""
    folder: str
    """The folder of the search, or one below it."""


Shard = InputSource | FolderShard | Split


def plan_shards(
    source: InputSource, settings: InputSettings, split_bytes: int = SPLIT_BYTES, enough: int = ENOUGH_SHARDS
) -> Iterator[Shard | ImageRef | BadName]:
    """Yield shards that together name each image of an input as often as list_input does, and images found on the way.

    Args:
        source: The input.
        settings: Which files of a folder count as images.
        split_bytes: About how large a split of a manifest is.
        enough: How many shards a folder is taken apart into, if it has so many folders.

    Raises:
        InputError: A manifest cannot be read, or lacks its column.
        OSError: The storage cannot be listed.
    """
    if source.kind == "file":
        yield source
        return
    if source.kind not in ("folder", "glob"):
        yield from plan_splits(manifest_of(source), split_bytes)
        return
    search = find_search(source)
    if not search.deep:
        yield source
        return
    if source.kind == "glob" and not storage.is_folder(search.folder):
        return
    choose = image_filter(search, settings)
    for found in take_apart(search.folder, lambda folder: list_level(search.folder, folder), enough):
        if isinstance(found, str):
            yield FolderShard(search, found)
        else:
            yield from choose([found])


def list_shard(shard: Shard, settings: InputSettings) -> Iterator[ImageRef | BadName]:
    """Yield every image of a shard.

    Raises:
        InputError: A manifest cannot be read, or lacks its column.
        OSError: The storage cannot be listed.
    """
    if isinstance(shard, FolderShard):
        return image_filter(shard.search, settings)(list_below(shard.search.folder, shard.folder))
    return resolve_entries(shard) if isinstance(shard, Split) else list_input(shard, settings)


def take_apart(
    root: str, list_one: Callable[[str], Level | None], enough: int, most: int = MOST_FOLDERS
) -> Iterator[FileStat | str]:
    """Yield folders that are to be listed with all below them, and the files that lie beside them.

    Args:
        root: The folder to begin with.
        list_one: Lists one level; None where a folder cannot be taken apart. Called in threads.
        enough: How many folders are wanted.
        most: A level with more folders is not taken apart.
    """
    folders, whole = [root], 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in range(_DEEPEST):
            below: list[str] = []
            for folder, level in zip(folders, pool.map(list_one, folders), strict=True):
                if level is None or level.cut or len(level.folders) > most:
                    whole += 1
                    yield folder
                else:
                    yield from level.files
                    below += level.folders
            folders = below
            if not folders or whole + len(folders) >= enough:
                break
    yield from folders
