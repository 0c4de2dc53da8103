"""A whole cluster in one thread: simulated time, network and disk around the real machine, kernel, journal and node."""
