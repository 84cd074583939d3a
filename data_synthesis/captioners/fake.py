"""A captioner with faults, to see that nothing is lost to them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from data_synthesis import draws
from data_synthesis.captioners.base import Captioner, Outcome, Request, Response
from gve_jax.types import UserError

_TRIES = 6  # as often as a request over a network is tried
_REFUSAL = {key: "I'm sorry, but I cannot help with that." for key in "12345"}


def _twice(text: str) -> str:
    """The first key once more."""
    key = next(iter(json.loads(text)))
    return f'{text[:-1]}, "{key}": "once more"}}'


# What comes instead of an answer -> the answer's text changed.
_TEXTS: dict[str, Callable[[str], str]] = {
    "bad_json": lambda text: text.replace('": ', '" = ', 1),
    "truncated_json": lambda text: text[: 2 * len(text) // 3],
    "duplicate_keys": _twice,
    "prose": lambda text: f"Sure, here is the JSON:\n```json\n{text}\n```",
    "refusal": lambda text: json.dumps({k: _REFUSAL["1"] for k in json.loads(text)}),
    "empty": lambda text: "",
}
_OUTCOMES = {
    "cut_off": (Outcome.TRUNCATED, ""),
    "blocked": (Outcome.BLOCKED, "the content filter refused it"),
    "fatal": (Outcome.FATAL, "status 400"),
}
# Each try of a request may meet one of these; six in a row are a failure.
_TRANSIENT = {"429": "status 429", "500": "status 500", "hang": "no answer in time"}
FAULTS = (*_TEXTS, *_OUTCOMES, *_TRANSIENT)


class Fake:
    """Another captioner's answers, some of them spoilt.

    Which ones follows from the request alone: a run that is interrupted, or in another
    order, meets the same faults.
    """

    def __init__(self, captioner: Captioner, faults: Mapping[str, float], seed: int):
        """`faults`: fault -> share of the tries. Raises UserError for others."""
        shares = [s for s in faults.values() if not isinstance(s, int | float) or s < 0]
        if unknown := sorted(set(faults) - set(FAULTS)):
            raise UserError(f"config.caption.faults: {unknown} are none of {FAULTS}")
        if shares or sum(faults.values()) > 1:
            raise UserError(
                f"config.caption.faults={dict(faults)}: shares from 0, at most 1 in all"
            )
        self._captioner, self._faults, self._seed = captioner, dict(faults), seed
        self.id = f"fake {captioner.id}"
        self.fingerprint = json.dumps(
            [captioner.fingerprint, sorted(faults.items()), seed]
        )
        self.tries = 0

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        for place, response in self._captioner.generate(requests):
            yield place, self._spoilt(requests[place], response)

    def close(self) -> None:
        self._captioner.close()

    def _spoilt(self, request: Request, response: Response) -> Response:
        key = request.payload_sha256("")
        fault = ""
        for number in range(_TRIES):
            self.tries += 1
            fault = self._drawn(key, number)
            if fault not in _TRANSIENT:
                break
        else:
            return Response(Outcome.TRANSIENT, detail=_TRANSIENT[fault])
        if fault in _OUTCOMES:
            outcome, detail = _OUTCOMES[fault]
            return response._replace(
                outcome=outcome, text=response.text[:40], detail=detail
            )
        if fault and response.outcome is Outcome.SUCCESS:
            return response._replace(text=_TEXTS[fault](response.text))
        return response

    def _drawn(self, key: str, number: int) -> str:
        """A fault, or "" for none."""
        place = draws.uniform(self._seed, key, "fault", number)
        for fault, share in sorted(self._faults.items()):
            if place < share:
                return fault
            place -= share
        return ""
