"""The report of an evaluation, or of several: pages, and tables for papers.

FOLDER/report.html is the page that is read first, FOLDER/report/NAME.html shows a
dataset, FOLDER/report.md and report.tex hold the tables. All are made of files of the
evaluation; what they show of the data is kept beside the pages, so that
`python -m eval.report` can make them anew without the data.
"""

from eval.report.comparison import compare
from eval.report.pages import write
from eval.report.record import collect
from eval.report.runs import Run, read

__all__ = ["Run", "collect", "compare", "read", "write"]
