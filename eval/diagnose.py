"""Probe a finished evaluation: what its scores rest on. Goes on where it stopped.

python -m eval.diagnose --config=configs/uvrb_mini.py \
    --checkpoint=runs/quickstart/train --output=runs/quickstart/eval \
    --probes=frame_order,confusion --datasets=CRB-T,CMRB

The encoder is named as for `python -m eval`. OUTPUT/probes.json:

  {"contract": CONTRACT, "datasets": [NAME], "probes": {PROBE: RESULT}}

RESULT is {"what": str} with one of

  "not_run": str         why the probe could not run
  "variants": {VARIANT: {"what": str, "datasets": {NAME: ROW}, "abilities": {A: ROW}}}
                         items changed; ROW as in `eval.probes.paired.compare`, "AVG"
                         among the abilities being the ability average
  "datasets": {NAME: {...}}
                         measured on the vectors or rankings: fields as in
                         `eval.probes.geometry` and `eval.probes.confusion`, with
                         "pairs" (modality_gap) or "overall" (confusion) beside it, and
                         "left_out" {NAME: reason} where there is too little to measure

Probes asked for again replace their old results; others of the same contract and
datasets stay.
"""

import json
import pathlib
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from eval import loaders, summary, vectors
from eval.datasets import RetrievalSet
from eval.encoders.frames import FrameEncoder
from eval.encoders.precomputed import Precomputed
from eval.encoders.protocol import Encoder
from eval.probes import PROBES, NotRun, Probe, Subject, compare, world
from eval.probes.table import table
from eval.run import read, sides_of
from gve_jax import main as command
from gve_jax.disk import write_json
from gve_jax.embed import Embedder
from gve_jax.types import UserError


def diagnose(
    config: ml_collections.ConfigDict,
    sets: list[RetrievalSet],
    encoder: Encoder | Precomputed,
    output: pathlib.Path,
    names: list[str],
    paraphrases: dict[str, dict[str, str]] | None = None,
) -> dict:
    """Runs the probes `names` and writes output/probes.json, one by one.

    Returns what the file holds. Raises UserError if media cannot be read.
    """
    resamples, seed = config.eval.bootstrap, config.seed

    def embed(part: Sequence[RetrievalSet]) -> vectors.Sides:
        if isinstance(encoder, Precomputed):
            raise NotRun("files hold no vectors of changed items: probe the encoder")
        return sides_of(config, list(part), encoder, output)

    sides = sides_of(config, sets, encoder, output)
    subject = Subject(
        sets=tuple(sets),
        sides=sides,
        outcomes=summary.score(sets, sides, resamples, seed),
        resamples=resamples,
        seed=seed,
        fixed_frames=_fixed_frames(encoder),
        paraphrases=paraphrases,
        world=world.find(config.eval.root),
    )
    head = {
        "contract": encoder.contract.to_json(),
        "datasets": [data.name for data in sets],
    }
    file = output / "probes.json"
    done = _kept(file, head)
    for name in names:
        done[name] = {"what": PROBES[name].what} | _run(PROBES[name], subject, embed)
        ordered = {known: done[known] for known in PROBES if known in done}
        found = head | {"probes": ordered}
        write_json(file, found)
    return found


def _fixed_frames(encoder) -> str | None:
    """Why an encoder cannot be trusted to show frames in another order, or None."""
    if isinstance(encoder, Embedder | FrameEncoder | Precomputed):
        return None
    if getattr(encoder, "reads_frame_order", False):
        return None
    return (
        f"{type(encoder).__name__} reads media by itself: derive it from "
        "eval.encoders.frames.FrameEncoder, or heed Item.frame_order and give it an "
        "attribute reads_frame_order that is true"
    )


def _run(probe: Probe, subject: Subject, embed) -> dict:
    try:
        if probe.measure:
            return probe.measure(subject)
        found = {}
        for name, variant in probe.variants(subject).items():
            outcomes = summary.score(
                list(variant.sets),
                embed(variant.sets),
                subject.resamples,
                subject.seed,
            )
            found[name] = compare(subject, variant, outcomes)
        return {"variants": found}
    except NotRun as e:
        return {"not_run": str(e)}


def _kept(file: pathlib.Path, head: dict) -> dict:
    """Results there are already, if they are of the same contract and datasets."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    same = all(found.get(key) == value for key, value in head.items())
    return found["probes"] if same else {}


def finished(output: pathlib.Path) -> dict:
    """What results.json holds.

    Raises:
      UserError: there is no finished evaluation in the folder.
    """
    try:
        return json.loads((output / "results.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise UserError(
            f"--output: no finished evaluation in {output} (results.json): run "
            "`python -m eval` with the same flags first"
        ) from None


def check_contract(results: dict, encoder: Encoder, output: pathlib.Path) -> None:
    """Raises UserError if the results are not this encoder's."""
    before, now = results["contract"], encoder.contract.to_json()
    differ = [
        f"{key} {before.get(key)!r} against {now.get(key)!r}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]
    if differ:
        raise UserError(
            f"--output: {output} holds results of another encoder ({differ[0]}, one of "
            f"{len(differ)}): name the one that was evaluated, or evaluate this one"
        )


def check_names(names: list[str]) -> list[str]:
    """The probes to run, in their order; none selected means all.

    Raises:
      UserError: a name is unknown.
    """
    unknown = [name for name in names if name not in PROBES]
    if unknown:
        raise UserError(
            f"--probes: no probe {unknown[0]!r}; choose from {', '.join(PROBES)}"
        )
    return [name for name in PROBES if not names or name in names]


def read_paraphrases(path: str) -> dict[str, dict[str, str]]:
    """Dataset -> query id -> text.

    Raises:
      UserError: the file cannot be read, or holds something else.
    """
    try:
        found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise UserError(f"--paraphrases: {path} cannot be read ({e})") from None
    fits = isinstance(found, dict) and all(
        isinstance(texts, dict) and all(isinstance(t, str) for t in texts.values())
        for texts in found.values()
    )
    if not fits:
        raise UserError(
            f"--paraphrases: {path} is not "
            '{"DATASET": {"query id": "its text in other words"}}'
        )
    return found


if __name__ == "__main__":
    # Here, because other commands with such flags import this module.
    from eval.encoders.flags import encoder_from_flags

    _CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file.")
    _OUTPUT = flags.DEFINE_string("output", None, "Folder of a finished evaluation.")
    _DATASETS = flags.DEFINE_list("datasets", None, "Names; default: those evaluated.")
    _PROBES = flags.DEFINE_list("probes", None, f"Default: all of {', '.join(PROBES)}.")
    _PARAPHRASES = flags.DEFINE_string(
        "paraphrases",
        None,
        "JSON file, dataset -> query id -> its text in other words.",
    )

    def main(_: list[str]) -> None:
        config, output = _CONFIG.value, pathlib.Path(_OUTPUT.value)
        names = check_names(_PROBES.value or [])
        paraphrases = _PARAPHRASES.value and read_paraphrases(_PARAPHRASES.value)
        results = finished(output)
        evaluated = list(results["datasets"])
        chosen = _DATASETS.value or evaluated
        sets = read(config, loaders.names(chosen, config.eval.root))
        absent = [data.name for data in sets if data.name not in evaluated]
        if absent:
            raise UserError(
                f"--datasets: {absent[0]} is not in {output / 'results.json'}: run "
                "`python -m eval` with it first, or leave it out"
            )
        encoder = encoder_from_flags(config)
        check_contract(results, encoder, output)
        found = diagnose(config, sets, encoder, output, names, paraphrases)
        print(table(found))
        print(f"\nprobes: {output / 'probes.json'}")
        print(f"show them: python -m eval.report --runs={output}")

    command.run(main, required=("config", "output"))
