"""Banks from outputs that somebody already has: one small module a format, one path from their records to a bank."""

from planner.profiling.importers.bank import ImportReport, import_bank
from planner.profiling.importers.formats import FORMATS, detect
from planner.profiling.importers.rows import CHARACTERS_PER_TOKEN

__all__ = ["CHARACTERS_PER_TOKEN", "FORMATS", "ImportReport", "detect", "import_bank"]
