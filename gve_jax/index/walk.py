"""The files under folders; links are followed, and no folder is entered twice."""

import collections
import os
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gve_jax.index.store import Failure, path_text
from gve_jax.types import UserError


class Found(NamedTuple):
    """A regular file, by the path that it was found under."""

    path: str
    root: str
    size: int
    mtime_ns: int


class Walk(NamedTuple):
    """What there is; `left_out` counts what is neither file nor folder."""

    roots: tuple[str, ...]
    files: list[Found]  # by path
    left_out: collections.Counter[str]
    failures: list[Failure]  # folders and files that cannot be looked at


def walk(paths: Sequence[str], index: str | os.PathLike) -> Walk:
    """Looks at all of the given folders and files, but not into the index itself.

    Raises:
      UserError: one of the paths does not exist.
    """
    found = Walk(tuple(map(os.path.abspath, paths)), [], collections.Counter(), [])
    # Folders by device and inode, which symbolic links cannot hide.
    seen = {_identity(os.stat(index))} if os.path.exists(index) else set()
    by_path: dict[str, Found] = {}
    for path, root in zip(paths, found.roots, strict=True):
        try:
            info = os.stat(root)
        except OSError as e:
            raise UserError(f"{path}: {e.strerror}; name a folder or a file") from None
        if stat.S_ISDIR(info.st_mode):
            for file in _folder(root, found, seen):
                by_path.setdefault(file.path, file)
        else:
            file = Found(root, root, info.st_size, info.st_mtime_ns)
            by_path.setdefault(root, file)
    found.files.extend(by_path[path] for path in sorted(by_path))
    return found


def under(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of these, or in one of them."""
    return any(
        path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
        for folder in folders
    )


def _folder(root: str, found: Walk, seen: set[tuple[int, int]]) -> Iterable[Found]:
    # What links lead to comes last: a folder is found by its own name if it has one.
    folders, links = [root], collections.deque()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        try:
            identity = _identity(os.stat(folder))
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                entries = list(entries)
        except OSError as e:
            found.failures.append(_failure(folder, e))
            continue
        for entry in entries:
            try:
                info = entry.stat()
            except OSError as e:
                if entry.is_symlink():
                    found.left_out["broken links"] += 1
                else:
                    found.failures.append(_failure(entry.path, e))
                continue
            if stat.S_ISDIR(info.st_mode):
                (links if entry.is_symlink() else folders).append(entry.path)
            elif stat.S_ISREG(info.st_mode):
                yield Found(entry.path, root, info.st_size, info.st_mtime_ns)
            else:
                found.left_out["devices, pipes and sockets"] += 1


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def _failure(path: str, e: OSError) -> Failure:
    return Failure(path_text(path), f"cannot be read ({e.strerror})", True)
