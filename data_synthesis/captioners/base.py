"""What is asked of a captioner, and what it answers."""

import enum
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol


class Outcome(enum.StrEnum):
    """How a request ended; TRANSIENT may be asked again as it is, BLOCKED never."""

    SUCCESS = "success"
    TRUNCATED = "truncated"  # the answer was longer than max_tokens
    BLOCKED = "blocked"  # refused by a filter
    TRANSIENT = "transient"  # not to be had, after all the captioner's own tries
    FATAL = "fatal"  # this request can never be answered


class Medium(NamedTuple):
    """A file; its hash stands for it, so that a moved folder asks nothing anew."""

    path: str
    sha256: str


class Request(NamedTuple):
    """One answer that is wanted.

    `facts` are for captioners that know the truth, as the ground truth of the world:
    what the prompt says in words, under the names of its slots.
    """

    id: str  # of the record, or of the record and what of it is asked about
    kind: str  # "video", "frame", "image_query" or "clip_query"
    system: str
    prompt: str
    videos: tuple[Medium, ...]  # frames are sampled from them
    images: tuple[Medium, ...]
    schema: dict  # JSON Schema of the answer
    facts: dict[str, str]
    seed: int
    max_tokens: int
    temperature: float

    def payload_sha256(self, captioner: str) -> str:
        """Of all that decides the answer; `captioner` is the fingerprint of one."""
        parts = self._asdict()
        parts["videos"] = [medium.sha256 for medium in self.videos]
        parts["images"] = [medium.sha256 for medium in self.images]
        text = json.dumps([captioner, parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Response(NamedTuple):
    """`text` is the raw answer; `detail` says why there is none."""

    outcome: Outcome
    text: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    detail: str = ""


class Captioner(Protocol):
    """A source of answers."""

    id: str
    # Of all that decides its answers besides the request: weights, address, truth.
    fingerprint: str

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        """(place, answer) of each request once, as they come; never raises for one.

        Raises:
          UserError: the captioner itself does not work: no file, no server.
        """

    def close(self) -> None:
        """Ends what it started."""
