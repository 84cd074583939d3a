"""probes.json as text."""

from collections.abc import Iterable

_CASES = 10  # of fewer a dataset's ratio says nothing


def table(found: dict) -> str:
    """All results, in lines of at most 88 columns."""
    lines: list[str] = []
    for name, result in found["probes"].items():
        lines += ["", f"{name}: {result['what']}"]
        if "not_run" in result:
            lines.append(f"  not run: {result['not_run']}")
        elif "variants" in result:
            for variant in result["variants"].values():
                lines += _variant(variant)
        else:
            lines += _MEASURED[name](result)
        for dataset, reason in result.get("left_out", {}).items():
            lines.append(f"  left out: {dataset}, {reason}")
    return "\n".join(lines[1:])


def _variant(variant: dict) -> Iterable[str]:
    yield f"  {variant['what']}"
    yield f"    {'':<12}{'before':>7}{'after':>7}  difference (95 %)         survives"
    for name, row in [*variant["abilities"].items(), *variant["datasets"].items()]:
        left = ""
        if row["survives"]:
            share, low, high = row["survives"]
            left = f"{share:4.0%} [{low:.0%}, {high:.0%}]"
        yield (
            f"    {name:<12}{row['baseline']:7.3f}{row['score']:7.3f}  "
            f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]  {left}"
        )


def _hubness(result: dict) -> Iterable[str]:
    yield f"  {'':<12}skewness (random)   never found (random)   most found / mean"
    for name, r in result["datasets"].items():
        yield (
            f"  {name:<12}{r['skewness']:8.2f}   {r['skewness_at_random']:6.2f}"
            f"   {r['never']:11.1%}   {r['never_at_random']:8.1%}   {r['most']:12.1f}"
        )


def _gap(result: dict) -> Iterable[str]:
    yield f"  {'':<24}distance  cosine within queries, corpus, between  separable"
    for name, r in [*result["datasets"].items(), *result["pairs"].items()]:
        yield (
            f"  {name:<24}{r['distance']:8.3f}{r['within_queries']:23.3f}"
            f"{r['within_corpus']:8.3f}{r['between']:9.3f}{r['separable']:11.1%}"
        )


def _anisotropy(result: dict) -> Iterable[str]:
    yield f"  {'':<22}mean cosine  participation ratio  effective rank  limit"
    for name, sides in result["datasets"].items():
        for side, r in sides.items():
            yield (
                f"  {name:<12} {side:<9}{r['mean_cosine']:11.3f}"
                f"{r['participation_ratio']:21.1f}{r['effective_rank']:16.1f}"
                f"{r['limit']:7}"
            )


def _confusion(result: dict) -> Iterable[str]:
    wrong = sum(row["num_wrong"] for row in result["datasets"].values())
    yield f"  all datasets, {wrong} wrong first answers"
    yield f"  {'':<12}{'cases':>6}{'wrong':>8}{'random':>8}  ratio (95 %)"
    for name, r in result["overall"].items():
        if "ratio" not in r:
            yield f"  {name:<12}{r['cases']:6}"
            continue
        yield (
            f"  {name:<12}{r['cases']:6}{r['wrong']:8.1%}{r['at_random']:8.1%}"
            f"  {r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"
        )
    attributes = list(result["overall"])
    yield "  ratio, per dataset"
    yield f"  {'':<12}" + "".join(f"{a[:5]:>6}" for a in attributes)
    for name, row in result["datasets"].items():
        rows = (row["attributes"][a] for a in attributes)
        cells = (
            f"{r['ratio']:.2f}" if "ratio" in r and r["cases"] >= _CASES else ""
            for r in rows
        )
        yield f"  {name:<12}" + "".join(f"{cell:>6}" for cell in cells)


_MEASURED = {
    "hubness": _hubness,
    "modality_gap": _gap,
    "anisotropy": _anisotropy,
    "confusion": _confusion,
}
