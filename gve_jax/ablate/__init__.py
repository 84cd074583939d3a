"""Studies: arms x seeds, trained, evaluated and compared as one command."""
