"""The stages; each module has `work(run)`, what Beam has to do for it."""
