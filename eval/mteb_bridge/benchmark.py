"""UVRB as an MTEB benchmark, and a model's run on it."""

import os
from collections.abc import Iterable

import mteb
from mteb.benchmarks.benchmark import BenchmarkAggregation
from mteb.results import BenchmarkResults

from eval import abilities
from eval.datasets import RetrievalSet
from eval.mteb_bridge.tasks import CITATION, REFERENCE, make_task


class UVRB(mteb.Benchmark):
    """The benchmark; MTEB's mean over tasks is UVRB's dataset average."""

    def get_score(
        self, results: BenchmarkResults, *, raise_error: bool = False
    ) -> dict[str, dict[str, float | None]]:
        """MTEB's aggregates of each model, and UVRB's abilities and their average."""
        scores = super().get_score(results, raise_error=raise_error)
        name_of = {task.metadata.name: task.data.name for task in self.tasks}
        for model in results.join_revisions():
            found = model.select_tasks(self.tasks).task_results
            of = abilities.abilities(
                {name_of[r.task_name]: r.get_score() for r in found}
            )
            average = abilities.ability_average(of)
            scores[model.model_name] |= of | {"ability_average": average}
        return scores


def benchmark(sets: Iterable[RetrievalSet]) -> UVRB:
    """UVRB, or the part of it that `eval.loaders` has read.

    Raises UserError if MTEB could not score a dataset as UVRB does.
    """
    return UVRB(
        name="UVRB",
        tasks=[make_task(data) for data in sets],
        description="Sixteen datasets of video retrieval by text, image, video and "
        "both of two, grouped into abilities.",
        reference=REFERENCE,
        citation=CITATION,
        aggregations=(BenchmarkAggregation.MEAN_TASK,),
    )


def evaluate(
    uvrb: UVRB, model: mteb.EncoderProtocol, output: str | os.PathLike
) -> dict[str, float]:
    """Runs what `output` does not hold yet, and writes it in MTEB's format.

    Returns:
      Dataset -> main score, as MTEB rounds it (to five decimals).
    """
    cache = mteb.ResultCache(output)
    scores = {}
    for task in uvrb:
        # MTEB 2.26 takes up complete results whatever data they are of.
        kept = cache.load_task_result(task.metadata.name, model.mteb_model_meta)
        same = kept is not None and kept.dataset_revision == task.metadata.revision
        result = mteb.evaluate(
            model,
            task,
            cache=cache,
            overwrite_strategy="only-missing" if same else "always",
            co2_tracker=False,
            show_progress_bar=False,
        )
        scores[task.data.name] = float(result.task_results[0].get_score())
    return scores
