"""V-SynFlow: from raw videos to a universal training set. Never imports jax."""

import logging

# Beam says at every import that clients of a cloud are not there.
logging.getLogger().addFilter(lambda r: "apitools not found" not in str(r.msg))
