"""What a compiled program moves between chips, read from its HLO text.

Bytes are those that each chip receives, as rings move them, the usual form of these
operations (Thakur et al. 2005, "Optimization of Collective Communication Operations in
MPICH"): of n chips that gather s bytes together, each receives s (n - 1) / n; as much
of a reduce-scatter of s; twice that of an all-reduce; of an all-to-all s (n - 1) / n;
of a permutation all of its operand. Hardware may take other ways.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "collective-permute",
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (.*)$")
_CALLED = re.compile(
    r"\b(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_INDEX = re.compile(r"\bindex=(\d+)")


class Traffic(NamedTuple):
    """Of one kind of collective, in one run of a program."""

    count: int
    bytes: int  # that each chip receives


class Collectives(NamedTuple):
    """All of a program's, by kind; kinds that it has none of are left out."""

    kinds: dict[str, Traffic]
    loops: int  # loops with collectives, whose trips were counted
    unknown_loops: int  # such loops of unknown length: taken as one trip

    @property
    def bytes(self) -> int:
        return sum(traffic.bytes for traffic in self.kinds.values())

    def times(self, n: int) -> "Collectives":
        """Of n runs of the program."""
        kinds = {k: Traffic(n * t.count, n * t.bytes) for k, t in self.kinds.items()}
        return self._replace(kinds=kinds)

    def __add__(self, other: "Collectives") -> "Collectives":
        kinds = {
            kind: Traffic(*map(sum, zip(*found, strict=True)))
            for kind in KINDS
            if (found := [c.kinds[kind] for c in (self, other) if kind in c.kinds])
        }
        loops = self.loops + other.loops
        return Collectives(kinds, loops, self.unknown_loops + other.unknown_loops)


class _Instruction(NamedTuple):
    name: str
    root: bool
    shape: str
    opcode: str
    operands: list[str]
    attributes: str


def count_collectives(hlo: str, devices: int) -> Collectives:
    """Counts a program's collectives.

    Both branches of a condition count. Loops count as often as they run: a trip count
    that the compiler notes, or that follows from a counter that a constant is added to
    and compared with.

    Args:
      hlo: text of a compiled module, `compiled.as_text()`.
      devices: that it runs on.
    """
    entry, computations = _parse(hlo)
    found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    seen: set[tuple] = set()  # pieces of collectives that compilers cut up
    loops = unknown = 0

    def walk(name: str, times: int, caller: str) -> bool:
        """Whether there was a collective in it."""
        nonlocal loops, unknown
        own = computations[name]
        by_name = {instruction.name: instruction for instruction in own}
        any_found = False
        for x in own:
            kind = x.opcode.removesuffix("-start")
            if kind in KINDS:
                channel = _CHANNEL.search(x.attributes)
                # TPUs fuse pieces of one collective with the work around it; they may
                # lie in different memories.
                shape = re.sub(r"\{[^}]*\}", "", x.shape)
                piece = (caller, kind, channel and channel[1], shape)
                if name != caller and piece in seen:
                    continue
                seen.add(piece)
                found[kind][0] += times
                found[kind][1] += times * _received(kind, x, by_name, devices)
                any_found = True
            elif x.opcode == "while":
                called = dict(_CALLED.findall(x.attributes))
                trips = _trips(x, by_name, computations)
                parts = called["body"], called["condition"]
                if any([walk(part, times * (trips or 1), part) for part in parts]):
                    any_found = True
                    loops += trips is not None
                    unknown += trips is None
            elif not x.opcode.endswith("-done"):
                inside = caller if x.opcode == "fusion" else None
                for callee in _callees(x):
                    any_found |= walk(callee, times, inside or callee)
        return any_found

    walk(entry, 1, entry)
    kinds = {kind: Traffic(*found[kind]) for kind in KINDS if kind in found}
    return Collectives(kinds, loops, unknown)


def _parse(hlo: str) -> tuple[str, dict[str, list[_Instruction]]]:
    """(name of the entry, instructions of each computation)."""
    entry, own = "", []
    computations: dict[str, list[_Instruction]] = {}
    for line in hlo.splitlines():
        if match := _INSTRUCTION.match(line):
            shape, rest = _split_shape(match[3])
            opcode, _, rest = rest.partition("(")
            operands, _, attributes = rest.partition(")")
            names = re.findall(r"%?([\w.-]+)(?:,|$)", operands)
            own.append(
                _Instruction(match[2], bool(match[1]), shape, opcode, names, attributes)
            )
        elif match := _COMPUTATION.match(line):
            own = computations[match[2]] = []
            if match[1]:
                entry = match[2]
    return entry, computations


def _split_shape(text: str) -> tuple[str, str]:
    """An instruction's shape, which may be a tuple, and what follows it."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == " " and not depth:
            return text[:i], text[i + 1 :]
    return text, ""


def _callees(x: _Instruction) -> Iterator[str]:
    if x.opcode.removesuffix("-start") in ("reduce", "sort", "scatter", "map"):
        return  # scalar work
    for _, name in _CALLED.findall(x.attributes):
        yield name
    if branches := _BRANCHES.search(x.attributes):
        yield from re.findall(r"[\w.-]+", branches[1])


def _received(kind: str, x: _Instruction, by_name, devices: int) -> int:
    """Bytes that a chip receives; see the head of the file."""
    n = _group_size(x.attributes, devices)
    given = sum(_size(by_name[name].shape) for name in x.operands)
    if kind == "collective-permute":
        return given
    if kind == "all-gather":
        return given * (n - 1)
    return given * (n - 1) // n * (2 if kind == "all-reduce" else 1)


def _group_size(attributes: str, devices: int) -> int:
    """How many chips share in it; the groups are written in one of three ways."""
    if match := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(match[1])
    if match := re.search(
        r"replica_groups=@?\w*mesh\w*\[([^\]]*)\] \{([^}]*)\}", attributes
    ):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    return devices


def _size(shape: str) -> int:
    """Bytes of an array or a tuple, without padding of its layout."""
    total = 0
    for name, bits, dimensions in _ARRAY.findall(shape):
        count = math.prod(int(n) for n in dimensions.split(",") if n)
        total += -(-count * (8 if name == "pred" else int(bits)) // 8)
    return total


def _trips(loop: _Instruction, by_name, computations) -> int | None:
    """How often a loop runs, if that can be told."""
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    called = dict(_CALLED.findall(loop.attributes))
    condition = {x.name: x for x in computations[called["condition"]]}
    body = {x.name: x for x in computations[called["body"]]}
    root = next(x for x in condition.values() if x.root)
    if root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None
    counter, bound = (condition[name] for name in root.operands)
    limit = _constant(bound, condition)
    if counter.opcode != "get-tuple-element" or limit is None:
        return None
    index = int(_INDEX.search(counter.attributes)[1])
    start = _constant(by_name[by_name[loop.operands[0]].operands[index]], by_name)
    tuple_ = next(x for x in body.values() if x.root)
    next_ = body.get(tuple_.operands[index])
    if next_ is None or next_.opcode != "add" or start is None:
        return None
    steps = [_constant(body[name], body) for name in next_.operands]
    steps = [step for step in steps if step]
    return -(-(limit - start) // steps[0]) if len(steps) == 1 else None


def _constant(x: _Instruction, by_name) -> int | None:
    """Its value, through copies."""
    while x.opcode in ("copy", "bitcast") and x.operands:
        x = by_name[x.operands[0]]
    value = x.operands[0] if x.opcode == "constant" and x.operands else ""
    return int(value) if value.isdigit() else None
