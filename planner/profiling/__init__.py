"""Banks of recorded samples and runs: made by profiling recipes or imported, replayed at no generation."""
