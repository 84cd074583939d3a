"""Asks until an answer is usable: strict first, then with what was wrong, then ends.

A request is asked up to `attempts` times, from the second on with the previous answer
and its faults. If of five captions three or more are good, the others are asked once
more by themselves. An answer that was cut off is asked again with twice the room, once;
it is never mended. What stays unusable has a `Failure`.
"""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from data_synthesis import draws, prompts, shards, validation
from data_synthesis.captioners import choice
from data_synthesis.captioners.base import Captioner, Outcome, Request, Response
from data_synthesis.captioners.cache import Cached
from data_synthesis.record import Failure, Generation
from data_synthesis.run import Run
from data_synthesis.validation import Fault
from gve_jax import disk

# Good captions of five that are worth keeping while the rest is asked for.
_ENOUGH = 3


class Task(NamedTuple):
    """A request and the rules of meaning for its answer."""

    request: Request
    check: Callable[[dict[str, str]], tuple[Fault, ...]]


class Answered(NamedTuple):
    """`value` is the best that came, by key; usable where there is no `failure`."""

    value: dict[str, str]
    faults: tuple[Fault, ...]  # of `value`; warnings alone if it is usable
    attempts: dict[str, int]  # key -> number of the attempt that it is from
    asked: int
    tokens_in: int
    tokens_out: int
    repaired: bool
    failure: Failure | None


def ask(
    captioner: Captioner,
    tasks: Sequence[Task],
    *,
    seed: int,
    attempts: int,
    repair: bool,
    raw: str = "",
) -> list[Answered]:
    """Answers of tasks, in order.

    Args:
      captioner: asked for all open tasks at once, again and again.
      seed: of the run; each attempt draws its own from it.
      attempts: of a whole answer, re-asking included.
      repair: take the object out of what stands around it (flagged) before re-asking.
      raw: file of the raw answers, for failures.

    Raises:
      UserError: the captioner does not work; nothing is to be blamed on the tasks.
    """
    states = [_State(task, seed, attempts, repair, raw) for task in tasks]
    waiting = states
    while waiting:
        came = set()
        for place, response in captioner.generate([s.request for s in waiting]):
            waiting[place].take(response)
            came.add(place)
        if len(came) != len(waiting):
            raise RuntimeError(f"{captioner.id}: {len(came)} of {len(waiting)} answers")
        waiting = [s for s in waiting if s.open]
    return [state.answered() for state in states]


class Session(NamedTuple):
    """A captioner, open for the requests of one shard.

    `made` is how an answer to a request came about, for the records.
    """

    ask: Callable[[Sequence[Task]], list[Answered]]
    made: Callable[[Request, Answered], Generation]


def made_by(run: Run, captioner: Captioner, request: Request, found: Answered):
    """The `Generation` of an answer."""
    prompt = prompts.load(request.kind)
    sampling = {"max_tokens": request.max_tokens, "temperature": request.temperature}
    return Generation(
        captioner_id=captioner.id,
        prompt_id=prompt.id,
        prompt_sha256=prompt.sha256,
        schema_sha256=shards.config_sha256(request.schema),
        sampling=json.dumps(sampling),
        seed=run.config.seed,
        attempts=found.asked,
        tokens_in=found.tokens_in,
        tokens_out=found.tokens_out,
        repaired=found.repaired,
        backend=run.config.caption.captioner,
        fingerprint=captioner.fingerprint,
    )


@contextlib.contextmanager
def session(run: Run, stage: str, shard: int) -> Iterator[Session]:
    """The run's captioner, with the answers that are there already.

    OUT/requests/STAGE/00007.jsonl holds all answers of a shard as they came; what was
    asked and what was found there goes to OUT/timings/requests.STAGE/00007.json.
    """
    settings, start = run.config.caption, time.perf_counter()
    name = f"requests/{stage}/{shard:05d}.jsonl"
    with choice.opened(run.config) as captioner:
        cached = Cached(captioner, run.layout.root / name)
        with contextlib.closing(cached):
            yield Session(
                functools.partial(
                    ask,
                    cached,
                    seed=run.config.seed,
                    attempts=settings.attempts,
                    repair=settings.repair_json,
                    raw=name,
                ),
                functools.partial(made_by, run, captioner),
            )
    path = run.layout.timing(f"requests.{stage}", shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = time.perf_counter() - start
    disk.write_json(path, cached.paid._asdict() | {"seconds": seconds})


class _State:
    """One task on its way."""

    def __init__(self, task, seed, attempts, repair, raw):
        self._task, self._seed, self._attempts = task, seed, attempts
        self._repair, self._raw = repair, raw
        self._asked = self._tokens_in = self._tokens_out = 0
        self._number = 0  # of the attempt; a longer room is none of its own
        self._alone: tuple[str, ...] = ()  # keys that are asked for by themselves
        self._room = False
        self._value: dict[str, str] = {}
        self._faults: tuple[Fault, ...] = ()
        self._from: dict[str, int] = {}
        self._repaired = False
        self._failure: Failure | None = None
        self.open = True
        self.request = self._numbered(task.request)

    def take(self, response: Response) -> None:
        """Settles what an answer means: the end, or the next request."""
        self._asked += 1
        self._tokens_in += response.tokens_in
        self._tokens_out += response.tokens_out
        if response.outcome is Outcome.TRUNCATED and not self._room:
            self._room = True
            most = 2 * self.request.max_tokens
            self.request = self.request._replace(max_tokens=most)
            return
        if response.outcome not in (Outcome.SUCCESS, Outcome.TRUNCATED):
            self._fail((response.outcome.value,), response.detail)
            return
        faults = self._judge(response)
        if not faults:
            self.open = False
            return
        self._number += 1
        bad = sorted({f.style for f in validation.fatal(self._faults)} - {""})
        good = [key for key in self._value if key not in bad]
        if self._number < self._attempts:
            self._ask_again(response.text, faults, ())
        elif bad and len(good) >= _ENOUGH and not self._alone:
            self._ask_again(response.text, validation.fatal(self._faults), tuple(bad))
        else:
            codes = tuple(sorted({f.code for f in faults}))
            self._fail(codes, "; ".join(f.message for f in faults))

    def answered(self) -> Answered:
        return Answered(
            self._value, self._faults, self._from, self._asked, self._tokens_in,
            self._tokens_out, self._repaired, self._failure,
        )  # fmt: skip

    def _judge(self, response: Response) -> tuple[Fault, ...]:
        """What makes this answer unusable; the best so far is kept beside it."""
        if response.outcome is Outcome.TRUNCATED:
            return (Fault("truncated", "", "too long: it was cut off; be brief"),)
        schema, repaired = self.request.schema, False
        answer = validation.parse(response.text, schema)
        if answer.value is None and self._repair:
            second = validation.parse(validation.mended(response.text), schema)
            repaired = second.value is not None
            answer = second if repaired else answer
        if answer.value is None:
            return answer.faults
        value = (self._value if self._alone else {}) | answer.value
        faults = self._task.check(value)
        fatal = validation.fatal(faults)
        if not self._value or len(fatal) <= len(validation.fatal(self._faults)):
            fresh = dict.fromkeys(answer.value, self._number)
            self._from = (self._from if self._alone else {}) | fresh
            self._repaired = repaired or (bool(self._alone) and self._repaired)
            self._value, self._faults = value, faults
        return fatal

    def _ask_again(self, text: str, faults, keys: tuple[str, ...]) -> None:
        first = self._task.request
        self._alone = keys
        wanted = keys or tuple(first.schema["required"])
        if keys:
            text = json.dumps(self._value, ensure_ascii=False)
        more = prompts.load("reask").fill(
            previous_answer=text,
            faults="\n".join(dict.fromkeys(f"- {f.message}" for f in faults)),
            keys="exactly the key" + "s" * (len(wanted) > 1) + " "
            + ", ".join(f'"{key}"' for key in wanted),
        )  # fmt: skip
        properties = first.schema["properties"]
        self.request = self._numbered(
            first._replace(
                prompt=f"{first.prompt}\n\n{more}",
                max_tokens=self.request.max_tokens,
                schema=first.schema
                | {
                    "properties": {key: properties[key] for key in wanted},
                    "required": list(wanted),
                },
            )
        )

    def _numbered(self, request: Request) -> Request:
        drawn = draws.digest(self._seed, request.id, "sampling", self._number)
        # 31 bits: what servers take for a seed.
        return request._replace(seed=int.from_bytes(drawn[:4]) >> 1)

    def _fail(self, codes: tuple[str, ...], message: str) -> None:
        message = message.encode(errors="replace")[:2048].decode(errors="ignore")
        self._failure = Failure(
            codes, message, self._asked, self._task.request.id, self._raw
        )
        self.open = False
