"""The report of a run: OUT/report.html and OUT/report.json, from its files alone."""
