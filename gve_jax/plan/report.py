"""A plan as text and as JSON."""

from typing import Any

from gve_jax.plan.plan import Plan
from gve_jax.plan.topology import GIB

_PARTS = {
    "frozen": "frozen parameters",
    "trainable": "trainable parameters",
    "optimiser": "optimiser state",
    "gradients": "gradients",
    "batches": "batches under way",
    "padding": "padding of layouts",
    "temporaries": "activations, temporaries",
    "code": "program",
}


def projection(plan: Plan, utilisation: float) -> dict[str, float] | None:
    """Seconds of a step if it ran at a share of the chip's peak; nothing was timed.

    Padding is taken to cost nothing. Collectives are at the full speed of all links,
    and may be hidden behind the computation. None: the chip's speed is not known.
    """
    chip, m = plan.topology.chip, plan.measured
    if not chip.flops:
        return None
    times = {
        "utilisation": utilisation,
        "compute_seconds": m.flops.executed / (chip.flops * utilisation),
    }
    if m.collectives is not None:
        times["collective_seconds"] = m.collectives.bytes / chip.link
    return times


def as_json(plan: Plan, utilisation: float) -> dict[str, Any]:
    """JSON values; bytes and FLOPs are those of each chip in one step."""
    m, chips = plan.measured, len(plan.topology.devices)
    c = m.collectives
    return {
        "step": plan.step,
        "topology": plan.topology.name,
        "chip": plan.topology.chip.title,
        "chips": chips,
        "mesh": plan.mesh,
        "sizes_from": plan.sizes_from,
        "items": plan.items,
        "batch_size": m.batch_size,
        "config": plan.asked,
        "memory": {
            **m.memory._asdict(),
            "peak": m.memory.peak,
            "hbm": plan.hbm or None,
        },
        "fits": plan.fits,
        "refused": c is None,
        "largest": plan.largest,
        "collectives": c
        and {
            **{kind: traffic._asdict() for kind, traffic in c.kinds.items()},
            "bytes": c.bytes,
            "loops": c.loops,
            "unknown_loops": c.unknown_loops,
        },
        "flops": m.flops._asdict(),
        "padding": {"tokens": m.token_padding, "patches": m.patch_padding},
        "projection": projection(plan, utilisation),
    }


def as_text(plan: Plan, utilisation: float) -> str:
    m, chip, chips = plan.measured, plan.topology.chip, len(plan.topology.devices)
    mesh = ", ".join(f"{axis}={n}" for axis, n in plan.mesh.items()) or "one chip"
    asked = ", ".join(f"{key}={value}" for key, value in plan.asked.items())
    lines = [
        f"{plan.step} step on {plan.topology.name}: {chips} x {chip.title}, {mesh}; "
        "compiled, not run",
        f"  model: {plan.sizes_from}; {asked}",
        f"  batch: {m.batch_size} {plan.items}",
        f"  padding: {m.token_padding:.0%} of token slots, {m.patch_padding:.0%} of "
        "patch slots",
        "memory of each chip, GiB",
    ]
    for name, bytes_ in m.memory._asdict().items():
        lines.append(f"  {_PARTS[name]:26} {bytes_ / GIB:8.2f}")
    peak = f"  {'peak':26} {m.memory.peak / GIB:8.2f}"
    lines.append(peak + (f" of {plan.hbm / GIB:.2f}" if plan.hbm else ""))
    if m.collectives is None:
        lines.append("  the compiler refused the step: temporaries are its own figure")
    lines += _collectives(plan)
    flops = m.flops
    lines += [
        "FLOPs of each chip, TFLOP, by formula, without padding",
        f"  required {flops.required / 1e12:.1f}, executed {flops.executed / 1e12:.1f} "
        f"(MFU is {flops.required / flops.executed:.2f} of HFU)",
    ]
    times = projection(plan, utilisation)
    if times:
        compute = times["compute_seconds"]
        moved = times.get("collective_seconds")
        lines += [
            "projection, not a measurement",
            f"  {compute:.2f} s at {utilisation:.0%} of {chip.flops / 1e12:.0f} "
            f"TFLOP/s, {m.batch_size / compute / chips:.1f} items a second and chip",
        ]
        if moved:
            lines.append(
                f"  {moved:.2f} s of collectives at {chip.link / 1e9:.0f} GB/s, hidden "
                "behind it or not"
            )
    answer = {True: "yes", False: "no", None: "memory of the chip unknown: --hbm_gib"}
    lines.append(f"fits: {answer[plan.fits]}")
    for key, value in plan.largest.items():
        found = "none of those tried" if value is None else f"{value}"
        lines.append(f"largest {key} tried that fits: {found}")
    return "\n".join(lines)


def _collectives(plan: Plan) -> list[str]:
    c = plan.measured.collectives
    if c is None:
        return ["collectives: unknown"]
    if not c.kinds:
        return ["collectives: none"]
    lines = ["collectives of each chip: count, GiB received"]
    for kind, traffic in c.kinds.items():
        lines.append(f"  {kind:26} {traffic.count:6} {traffic.bytes / GIB:8.2f}")
    lines.append(f"  {'all':26} {'':6} {c.bytes / GIB:8.2f}")
    if c.loops or c.unknown_loops:
        lines.append(
            f"  as often as {c.loops} loops run; {c.unknown_loops} loops of unknown "
            "length counted once"
        )
    return lines
