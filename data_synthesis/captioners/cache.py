"""Answers kept on disk: an interrupted shard asks only what was under way again."""

import json
import os
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from data_synthesis.captioners.base import Captioner, Outcome, Request, Response
from gve_jax import disk
from gve_jax.types import UserError


class Paid(NamedTuple):
    """Of one opening of a file: requests found there, and those that were asked."""

    hits: int = 0
    asked: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


class Cached:
    """A captioner whose answers are looked up in a file first, by their payload.

    The file is only appended to, one whole line at a time; a line that was cut off by
    the end of the process is dropped. What may be asked again is not kept.
    """

    def __init__(self, captioner: Captioner, path: pathlib.Path):
        """Raises UserError if the file holds a line that is not ours."""
        self._captioner, self._path = captioner, path
        self.id, self.fingerprint = captioner.id, captioner.fingerprint
        self.paid = Paid()
        self._known: dict[str, Response] = {}
        for row in disk.read_rows(path):
            try:
                key, _ = row.pop("key"), row.pop("id")
                outcome = Outcome(row.pop("outcome"))
                self._known[key] = Response(outcome, **row)
            except (AttributeError, KeyError, TypeError, ValueError) as e:
                raise UserError(
                    f"{path}: a line is no answer ({e!r}); remove the file, and all "
                    "of the shard is asked anew"
                ) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, sum(len(s) + 1 for s in _whole(path)))

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        keys = [r.payload_sha256(self.fingerprint) for r in requests]
        missing = []
        for i, key in enumerate(keys):
            if key in self._known:
                self.paid = self.paid._replace(hits=self.paid.hits + 1)
                yield i, self._known[key]
            else:
                missing.append(i)
        asked = self._captioner.generate([requests[i] for i in missing])
        for place, response in asked:
            i, paid = missing[place], self.paid
            self.paid = Paid(
                paid.hits,
                paid.asked + 1,
                paid.tokens_in + response.tokens_in,
                paid.tokens_out + response.tokens_out,
            )
            if response.outcome is not Outcome.TRANSIENT:
                self._known[keys[i]] = response
                row = {"key": keys[i], "id": requests[i].id, **response._asdict()}
                # One write: a killed process leaves whole lines and at most one part.
                os.write(self._file, (json.dumps(row) + "\n").encode())
            yield i, response

    def close(self) -> None:
        """Closes the file; the captioner stays."""
        os.fsync(self._file)
        os.close(self._file)


def forget(path: pathlib.Path, ids: Collection[str]) -> int:
    """Removes the answers to requests of these ids; returns how many there were."""
    rows = disk.read_rows(path)
    kept = [row for row in rows if row["id"] not in ids]
    disk.write_rows(path, kept)
    return len(rows) - len(kept)


def _whole(path: pathlib.Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]
