"""Studies: whole runs that rebuild an asset or a table of the repository."""
