"""UVRB and video classification, rebuilt from the source datasets' own releases."""

from eval.sources import captioned, labelled, lovr, momentseeker
from eval.sources.entry import Entry, Source

SOURCES: dict[str, Source] = (
    captioned.SOURCES | lovr.SOURCES | momentseeker.SOURCES | labelled.SOURCES
)
ENTRIES: dict[str, Entry] = {
    entry.name: entry for source in SOURCES.values() for entry in source.entries
}
