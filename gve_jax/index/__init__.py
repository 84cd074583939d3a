"""An index of folders: built, searched, exported. Import its modules."""
