"""Everything that people look at, one file for each thing shown."""
