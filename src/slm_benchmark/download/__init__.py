"""Models and datasets from a hub, a package or this machine, pinned and with their digests."""
