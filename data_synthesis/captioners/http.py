"""A captioner behind an OpenAI-compatible server, as vLLM and others have it.

Media are sent as bytes, never as addresses. What may pass is tried again: up to six
times, after waits that grow at random from 1 to 60 s, or as long as the server says.
"""

import base64
import collections
import concurrent.futures as futures
import contextlib
import datetime
import email.utils
import functools
import ipaddress
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import httpx
import tenacity

from data_synthesis import validation, video
from data_synthesis.captioners import frames
from data_synthesis.captioners.base import Outcome, Request, Response
from data_synthesis.captioners.limits import Breaker, Bucket, outage
from gve_jax.preprocess.workers import Lost, Reader
from gve_jax.types import Item, UserError

_TRIES = 6
_AGAIN = {408, 409, 425, 429}  # and from 500 on
_SETTINGS = {401, 403, 404}  # wrong for every request
_MOST_BYTES = 4 << 20  # of an answer
_IMAGE_TOKENS = 256  # a guess, until the server says how many there were
_CONNECT_S = 10.0
_SCHEMA_WORDS = ("response_format", "json_schema", "guided")


class _Again(Exception):
    """This try failed; another, `after` seconds at least, may not."""

    def __init__(self, detail: str, after: float = 0.0):
        super().__init__(detail)
        self.after = after


class Http:
    """Threads ask the server, `config.caption.concurrency` at once."""

    def __init__(self, config, environment: Mapping[str, str] = os.environ, sleep=None):
        """Args:
        config: all of the workflow's; `caption` and `media` apply.
        environment: where the key is.
        sleep: waits so many seconds; None: really.

        Raises:
          UserError: the address cannot be, or a key would go over the net unencrypted.
        """
        c = self._config = config.caption
        self._key = environment.get(c.key_variable, "")
        local = _checked(c.url, c.model, bool(self._key))
        self._url = c.url.rstrip("/")
        self.id, self.fingerprint = c.model, f"{self._url} {c.model}"
        self._stop, self._broken = threading.Event(), None
        self._sleep = sleep or self._stop.wait
        waits = {"sleep": self._sleep}
        self._requests = Bucket(c.requests_per_minute / c.workers, **waits)
        self._tokens = Bucket(c.tokens_per_minute / c.workers, **waits)
        self._what = f"config.caption.url={self._url}"
        self._breaker = Breaker(c.breaker, self._what)
        self._sends_schema, self._said = True, False
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            limits=httpx.Limits(max_connections=c.concurrency + 1),
            # A proxy is for what lies outside.
            trust_env=not local,
        )
        limits = config.media
        self._reader = Reader(
            functools.partial(frames.as_jpegs, video.media_limits(limits)),
            processes=1,
            timeout_s=3 * limits.max_seconds,
            memory_mb=limits.max_memory_mb,
        )

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        videos = [Item(r.id, video=r.videos[0].path) for r in requests if r.videos]
        pool = futures.ThreadPoolExecutor(self._config.concurrency)
        running: dict[futures.Future, int] = {}
        self._stop.clear()
        with contextlib.closing(self._reader.ahead(videos)) as read:
            try:
                for i, request in enumerate(requests):
                    pictures = next(read) if request.videos else _picture(request)
                    if isinstance(pictures, str):
                        lost = isinstance(pictures, Lost)
                        outcome = Outcome.TRANSIENT if lost else Outcome.FATAL
                        yield i, Response(outcome, detail=str(pictures))
                        continue
                    running[pool.submit(self._answer, request, pictures)] = i
                    if len(running) > 2 * self._config.concurrency:
                        yield from _finished(running)
                next(read, None)  # it has ended, and its process waits for more
                while running:
                    yield from _finished(running)
            finally:
                self._stop.set()  # those that wait for another try give up
                pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        self._client.close()

    def _answer(self, request: Request, pictures: tuple[bytes, ...]) -> Response:
        guess = (
            len(request.system + request.prompt) / 4
            + _IMAGE_TOKENS * len(pictures)
            + request.max_tokens
        )
        end = time.monotonic() + self._config.deadline
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_TRIES)
            | tenacity.stop_before_delay(self._config.deadline),
            wait=_wait,
            sleep=self._sleep,
            retry=tenacity.retry_if_exception_type(_Again),
            reraise=True,
        )
        try:
            try:
                response = retrying(self._once, request, pictures, guess, end)
            except _Again as e:
                self._is_there(str(e))
                response = Response(Outcome.TRANSIENT, detail=str(e))
            if response.outcome in (Outcome.TRANSIENT, Outcome.FATAL):
                self._breaker.failed(response.detail)
            else:
                self._breaker.passed()
            return response
        except UserError as e:
            # At once, before another request begins.
            self._broken = e
            self._stop.set()
            raise

    def _once(self, request: Request, pictures, guess: float, end: float) -> Response:
        if self._stop.is_set():
            raise self._broken or futures.CancelledError
        self._requests.take(1)
        self._tokens.take(guess)
        # A try that hangs leaves time for another.
        limit = min(end - time.monotonic(), self._config.deadline / 2)
        if limit <= 0:
            raise _Again("no time is left")
        sends_schema = self._sends_schema
        body = self._body(request, pictures, sends_schema)
        status, headers, content = self._post(body, limit)
        if status == 200:
            return self._read(request, content, guess)
        detail = f"status {status}: {self._told(content)}"
        if status in _AGAIN or status >= 500:
            raise _Again(detail, _after(headers.get("retry-after", "")))
        if status in _SETTINGS or status < 400:
            raise UserError(
                f"{self._what}: {detail}; mend url, model or the key in "
                f"${self._config.key_variable}"
            )
        if "content_filter" in detail:
            return Response(Outcome.BLOCKED, detail=detail)
        if sends_schema and any(word in detail for word in _SCHEMA_WORDS):
            self._sends_schema = False
            self._say("refuses response_format; it is left out")
            return self._once(request, pictures, guess, end)
        return Response(Outcome.FATAL, detail=detail)

    def _body(self, request: Request, pictures, sends_schema: bool) -> bytes:
        parts: list[dict] = []
        if request.videos:
            parts.append({"type": "text", "text": "Frames of the video, in order:"})
        for data in pictures:
            url = "data:image/jpeg;base64," + base64.b64encode(data).decode()
            parts.append({"type": "image_url", "image_url": {"url": url}})
        parts.append({"type": "text", "text": request.prompt})
        body = {
            "model": self._config.model,
            "messages": [
                {"role": "system", "content": request.system},
                {"role": "user", "content": parts},
            ],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed,
        }
        if sends_schema:
            # Lengths are not part of what all servers take: the validator has them.
            plain = {key: {"type": "string"} for key in request.schema["properties"]}
            schema = request.schema | {"properties": plain}
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": schema},
            }
        return json.dumps(body).encode()

    def _post(self, body: bytes, limit: float) -> tuple[int, httpx.Headers, bytes]:
        """Raises _Again where no whole answer comes in `limit` seconds."""
        end = time.monotonic() + limit
        try:
            with self._client.stream(
                "POST",
                f"{self._url}/chat/completions",
                content=body,
                headers={"Content-Type": "application/json"},
                timeout=httpx.Timeout(limit, connect=min(limit, _CONNECT_S)),
            ) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    # The client's own limit is between two chunks: one may drip.
                    if time.monotonic() > end or len(content) > _MOST_BYTES:
                        raise _Again("the answer is too slow or too long")
                return response.status_code, response.headers, bytes(content)
        except httpx.HTTPError as e:
            raise _Again(f"{type(e).__name__}: {e}") from None

    def _read(self, request: Request, content: bytes, guess: float) -> Response:
        try:
            answer = json.loads(content)
            (choice, *_) = answer["choices"]
            message, reason = choice["message"], choice.get("finish_reason")
            text, refusal = message.get("content") or "", message.get("refusal")
            usage = answer.get("usage") or {}
            tokens = tuple(
                int(usage.get(f"{name}_tokens", 0)) for name in ("prompt", "completion")
            )
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise _Again(f"not an answer of this interface: {e!r}") from None
        if sum(tokens):
            self._tokens.settle(guess - sum(tokens))
        if refusal or reason == "content_filter":
            detail = self._told(str(refusal or reason).encode())
            return Response(Outcome.BLOCKED, text, *tokens, detail)
        if reason == "length":
            return Response(Outcome.TRUNCATED, text, *tokens)
        if self._sends_schema and not validation.parse(text, request.schema).value:
            self._say("ignores response_format; answers are checked all the same")
        return Response(Outcome.SUCCESS, text, *tokens)

    def _is_there(self, detail: str) -> None:
        """Raises UserError if the server is gone: that is no request's fault."""
        try:
            answer = self._client.get(f"{self._url}/models", timeout=_CONNECT_S)
            if answer.status_code < 500:
                return
        except httpx.HTTPError:
            pass
        raise outage(self._what, "the server does not answer", detail)

    def _told(self, content: bytes) -> str:
        text = " ".join(content.decode(errors="replace").split())[:500]
        return text.replace(self._key, "***") if self._key else text

    def _say(self, what: str) -> None:
        if not self._said:
            self._said = True
            print(f"{self._what} {what}", file=sys.stderr)


def _checked(url: str, model: str, key: bool) -> bool:
    """Whether the address is this machine's own."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as e:
        raise UserError(f"config.caption.url={url!r}: {e}") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise UserError(
            f"config.caption.url={url!r}: give an address as http://127.0.0.1:8000/v1"
        )
    if parts.userinfo:
        raise UserError(
            "config.caption.url holds a password: name in config.caption.key_variable "
            "the environment variable that has the key"
        )
    if not model:
        raise UserError("config.caption.model is empty: give the server's name of it")
    try:
        local = ipaddress.ip_address(parts.host).is_loopback
    except ValueError:
        local = parts.host == "localhost"
    if key and parts.scheme == "http" and not local:
        raise UserError(
            f"config.caption.url={url}: a key is only sent over https or to this "
            "machine; use https, or unset config.caption.key_variable"
        )
    return local


def _picture(request: Request) -> tuple[bytes, ...] | str:
    """A still of ours as it is: nothing is decoded. Or why it cannot be had."""
    try:
        with open(request.images[0].path, "rb") as f:
            return (f.read(),)
    except OSError as e:
        return f"{request.images[0].path}: {e.strerror}"


def _finished(
    running: dict[futures.Future, int],
) -> Iterator[tuple[int, Response]]:
    done, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
    found = collections.deque((running.pop(future), future) for future in done)
    for i, future in found:
        yield i, future.result()


def _wait(state: tenacity.RetryCallState) -> float:
    """Full jitter, or what the server asked for if that is longer."""
    jitter = tenacity.wait_random_exponential(multiplier=1, max=60)(state)
    return max(jitter, state.outcome.exception().after)


def _after(value: str) -> float:
    """Seconds of a Retry-After header, which has them or a date."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        date = email.utils.parsedate_to_datetime(value)
        now = datetime.datetime.now(datetime.UTC)
        return max(0.0, (date - now).total_seconds())
    return 0.0
