"""What the records of a run tell, in one pass over its last table of them."""

import array
import collections
import hashlib
import heapq
import itertools
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from data_synthesis import draws, profiles, shards
from data_synthesis.record import Record
from data_synthesis.report.filters import FILTERS, Threshold, filter_of
from data_synthesis.run import Run
from data_synthesis.validation import FRAME_WORDS, WORDS

# Stages whose tables hold all records, in order.
STAGES = (
    "ingest", "qc", "groups", "embed", "decide", "assets", "caption", "score_captions",
    "select",
)  # fmt: skip
_BINS = 30
# What-if: limits moved by these.
MOVES = (-0.2, 0.0, 0.2)
# Of a limit: how far a record may be from it to be shown as near.
_NEAR = 0.5
# Score -> from where on a kept record is worth a warning: flow over a tenth of the
# diagonal in half a second is more than the estimator follows.
WARNINGS = {"motion.flow": 0.1}


class Nearest:
    """The rows with the smallest keys of all that were offered."""

    def __init__(self, number: int):
        self._number, self._heap = number, []
        self._count = itertools.count()

    def offer(self, key: float, row) -> None:
        entry = (-key, -next(self._count), row)
        if len(self._heap) < self._number:
            heapq.heappush(self._heap, entry)
        elif entry[0] > self._heap[0][0]:
            heapq.heapreplace(self._heap, entry)

    def rows(self) -> list:
        return [row for *_, row in sorted(self._heap, key=lambda e: (-e[0], -e[1]))]


class Records:
    """Collects from each record; `report` gives what was found.

    `samples`: records that galleries show, by "kept", "dropped/CODE" and "near/CODE".
    `dead`: dead letters.
    """

    def __init__(self, run: Run, thresholds: list[Threshold], decided: bool):
        self._seed, self._number = run.config.seed, run.config.report.samples
        self._thresholds = thresholds
        self._sources = collections.defaultdict(collections.Counter)
        self._left = collections.defaultdict(collections.Counter)
        self._warnings: collections.Counter[str] = collections.Counter()
        self._models: set[str] = set()
        self._licences: collections.Counter[str] = collections.Counter()
        self._together: collections.Counter[tuple[str, str]] = collections.Counter()
        self._filters = {name: collections.Counter() for name in FILTERS}
        self._values = {t.code: _numbers() for t in thresholds}
        self._others = {t.code: bytearray() for t in thresholds}  # kept but for it?
        self._without = collections.Counter()  # kept, and have no such value
        self._languages: collections.Counter[str] = collections.Counter()
        self._seconds = 0.0
        self._decided = decided
        self.captions = Captions()
        self.dead: list[dict] = []
        self.samples = collections.defaultdict(lambda: Nearest(self._number))

    def add(self, record: Record) -> None:
        decision = record.decision
        row = self._sources[record.source.dataset or "(no name)"]
        row["in"] += 1
        row[decision.outcome] += 1
        if not record.alive:
            where = self._left[record.source.dataset or "(no name)"]
            where[decision.stage, decision.outcome] += 1
        self._models |= {s.model_id for s in record.scores.values() if s.model_id}
        if decision.outcome == "error":
            self.dead.append(_letter(record))
        self.captions.add(record)
        self.dead += [
            _letter(record, found)
            for found in record.caption_sets[1:]
            if found.failure is not None
        ]
        if record.alive:
            self._seconds += record.source.duration
            self._warnings.update(
                name
                for name, most in WARNINGS.items()
                if name in record.scores and record.scores[name].value > most
            )
            self._languages[record.text.lang or "(none)"] += 1
            place = record.source.dataset or "(no name)"
            self._licences[place, record.source.license or "(not stated)"] += 1
        # What was decided on: an error before says nothing of thresholds.
        early = decision.outcome == "error" and decision.stage in STAGES[:4]
        if self._decided and not early:
            self._judged(record)

    def _judged(self, record: Record) -> None:
        reasons = set(record.decision.reasons)
        reasons = reasons if record.decision.stage == "decide" else set()
        place = draws.uniform(self._seed, record.id, "report")
        hold = {filter_of(code) for code in reasons}
        for name in FILTERS:
            self._filters[name]["in"] += 1
            self._filters[name]["alone"] += hold == {name}
            self._filters[name]["hold"] += name in hold
        first = next((name for name in FILTERS if name in hold), None)
        if first:
            self._filters[first]["dropped"] += 1
        self._together.update(itertools.combinations(sorted(reasons), 2))
        if not reasons:
            self.samples["kept"].offer(place, record)
        for code in reasons:
            self.samples[f"dropped/{code}"].offer(place, record)
        for t in self._thresholds:
            value = t.value(record)
            if value is None:
                self._without[t.code] += not reasons
                continue
            self._values[t.code].append(value)
            self._others[t.code].append(not reasons - {t.code})
            away = abs(value - t.limit)
            if away <= _NEAR * abs(t.limit):
                # Equal distances: by the draw.
                self.samples[f"near/{t.code}"].offer(away + 1e-9 * place, record)

    def report(self) -> dict:
        return {
            "sources": {
                name: {
                    "in": row["in"], "kept": row["keep"], "dropped": row["drop"],
                    "errors": row["error"],
                }
                for name, row in sorted(self._sources.items())
            },
            "sources_by_stage": {
                name: self._by_stage(name) for name in sorted(self._sources)
            },
            "warnings": {
                name: {"above": most, "kept": self._warnings[name]}
                for name, most in WARNINGS.items()
            },
            "embedders": sorted(self._models),
            "licences": [
                {"dataset": dataset, "license": name, "kept": number}
                for (dataset, name), number in sorted(self._licences.items())
            ],
            "languages": dict(self._languages.most_common(12)),
            "hours": self._seconds / 3600,
            "filters": self._sequence() if self._decided else {},
            "together": [
                {"codes": codes, "records": number}
                for codes, number in self._together.most_common(20)
            ],
            "thresholds": [
                self._histogram(t) for t in self._thresholds if self._values[t.code]
            ],
            "captions": self.captions.report(),
        }  # fmt: skip

    def _by_stage(self, source: str) -> dict:
        """The stages at which records of a source leave."""
        found, entered = {}, self._sources[source]["in"]
        for stage in STAGES:
            dropped, errors = (self._left[source][stage, o] for o in ("drop", "error"))
            if dropped or errors:
                found[stage] = {
                    "in": entered, "kept": entered - dropped - errors,
                    "dropped": dropped, "errors": errors,
                }  # fmt: skip
                entered = found[stage]["kept"]
        return found

    def _sequence(self) -> dict:
        """As if filters came one after the other; "hold": all that one would drop."""
        found, entered = {}, None
        for name in FILTERS:
            row = self._filters[name]
            entered = row["in"] if entered is None else entered
            found[name] = {
                "in": entered,
                "kept": entered - row["dropped"],
                "dropped": row["dropped"],
                "hold": row["hold"],
                "alone": row["alone"],
            }
            entered -= row["dropped"]
        return found

    def _histogram(self, t: Threshold) -> dict:
        values = np.frombuffer(self._values[t.code], np.float64)
        others = np.frombuffer(self._others[t.code], bool)
        counts, edges = np.histogram(values, _BINS)
        beyond = values[~t.passes(values, t.limit)]
        kept = {}
        for move in MOVES:
            limit = t.limit + move * abs(t.limit)
            kept[f"{move:+.0%}" if move else "now"] = int(
                np.sum(others & t.passes(values, limit)) + self._without[t.code]
            )
        return {
            "code": t.code, "name": t.name, "key": t.key, "limit": float(t.limit),
            "least": t.least, "edges": edges.tolist(), "counts": counts.tolist(),
            "beyond": np.histogram(beyond, edges)[0].tolist(),
            "kept_if": kept,
        }  # fmt: skip


class Captions:
    """Of caption sets; "video" and "frame" are told apart."""

    def __init__(self):
        self._sets = collections.Counter()
        self._failures = collections.Counter()
        self._faults = collections.Counter()
        self._attempts = collections.defaultdict(collections.Counter)
        self._asked = collections.Counter()
        self._words = collections.defaultdict(_numbers)
        self._grades = collections.defaultdict(_numbers)
        self._grades_by_education = collections.defaultdict(_numbers)
        self._profile = collections.defaultdict(_numbers)
        self._estimate = collections.defaultdict(_numbers)
        self._scores = collections.defaultdict(_numbers)
        self._texts = array.array("Q")  # hashes
        self._tokens = collections.Counter()
        self._made = collections.Counter()

    def add(self, record: Record) -> None:
        for found in record.caption_sets:
            kind = "frame" if found.media else "video"
            made = found.generation
            self._sets[kind] += 1
            self._asked[made.attempts] += 1
            by = made.captioner_id, made.fingerprint, made.prompt_id, made.prompt_sha256
            self._made[by] += 1
            self._tokens["in"] += made.tokens_in
            self._tokens["out"] += made.tokens_out
            self._tokens["repaired"] += made.repaired
            if found.failure is not None:
                self._sets[f"{kind} failed"] += 1
                self._failures.update(found.failure.codes)
                continue
            for part, share in found.profile.items():
                self._profile[part].append(share)
            for caption in found.captions:
                self._faults.update(caption.faults)
                self._attempts[caption.attempt]["valid"] += caption.valid
                self._attempts[caption.attempt]["captions"] += 1
                self._words[kind, caption.style].append(caption.words)
                if caption.score is not None:
                    self._scores[kind, caption.style].append(caption.score)
                digest = hashlib.blake2b(caption.text.encode(), digest_size=8)
                self._texts.append(int.from_bytes(digest.digest()))
                if kind == "video" and caption.style == "2":
                    self._grades[found.readability].append(caption.grade)
                    by_education = self._grades_by_education[found.education_level]
                    by_education.append(caption.grade)
                    for part, share in profiles.estimate(caption.text).items():
                        self._estimate[part].append(share)

    def report(self) -> dict:
        if not self._sets:
            return {}
        _, counts = np.unique(np.array(self._texts), return_counts=True)
        return {
            "sets": dict(self._sets),
            "requests_of_a_set": dict(sorted(self._asked.items())),
            "by_attempt": {
                str(n): dict(found) for n, found in sorted(self._attempts.items())
            },
            "failures": dict(self._failures.most_common()),
            "faults": dict(self._faults.most_common()),
            "words": [
                {"kind": kind, "style": style, "captions": len(found),
                 "range": (WORDS if kind == "video" else FRAME_WORDS)[style],
                 "quantiles": _quantiles(found)}
                for (kind, style), found in _in_order(self._words)
            ],
            "scores": [
                {"kind": kind, "style": style, "quantiles": _quantiles(found)}
                for (kind, style), found in _in_order(self._scores)
            ],
            "profile": {k: statistics.fmean(v) for k, v in self._profile.items()},
            "profile_by_lexicon": {
                part: statistics.fmean(v) for part, v in self._estimate.items()
            },
            "profile_wanted": {
                part: 100 * mean
                for part, mean in zip(profiles.PARTS, profiles.MEAN, strict=True)
            },
            "grade_by_readability": _medians(self._grades, profiles.READABILITY),
            "grade_by_education": _medians(
                self._grades_by_education, profiles.EDUCATION
            ),
            "grades_rise": _rises(_medians(self._grades, profiles.READABILITY)),
            "texts": len(self._texts),
            "repeated_texts": int(counts[counts > 1].sum()),
            "tokens": dict(self._tokens),
            "made_by": [
                {"captioner": captioner, "fingerprint": fingerprint,
                 "prompt": prompt, "sha256": digest, "sets": n}
                for (captioner, fingerprint, prompt, digest), n
                in sorted(self._made.items())
            ],
        }  # fmt: skip


def _numbers() -> array.array:
    """A list of floats in eight bytes each: there may be millions."""
    return array.array("d")


def _medians(
    grades: Mapping[str, Sequence], slots: tuple[str, ...]
) -> dict[str, float]:
    """Of the slots that have any, in their order."""
    return {slot: statistics.median(grades[slot]) for slot in slots if grades[slot]}


def _rises(medians: dict[str, float]) -> bool:
    return all(a < b for a, b in itertools.pairwise(medians.values()))


def _in_order(found: dict[tuple[str, str], list]) -> list[tuple]:
    """Videos first, then by style."""
    return sorted(found.items(), key=lambda item: (item[0][0] != "video", item[0]))


def _quantiles(values: Sequence[float]) -> list[float]:
    """Smallest, quartiles, largest."""
    return np.percentile(values, (0, 25, 50, 75, 100)).tolist()


def _letter(record: Record, found=None) -> dict:
    """A dead letter: of a record, or of the captions of one of its stills."""
    failed = found or next((s for s in record.caption_sets if s.failure), None)
    failure = failed.failure if failed else None
    decision = record.decision
    of_set = found is not None or (failure and decision.stage == "caption")
    return {
        "id": record.id,
        "name": record.name,
        "stage": "caption" if of_set else decision.stage,
        "codes": list(failure.codes if of_set else decision.reasons),
        "message": failure.message if of_set else decision.detail,
        "media": found.media if found else "",
        "attempts": failure.attempts if of_set else 1,
        "raw": failure.raw if of_set else "",
        "request": failure.request if of_set else "",
    }


def read(run: Run, done: Collection[str]) -> tuple[str, Iterator[Record]]:
    """The last stage of records that is done, and its rows; ("", none) without one."""
    stage = next((s for s in reversed(STAGES) if s in done), "")
    return stage, shards.read_stage(run.layout, stage) if stage else iter(())
