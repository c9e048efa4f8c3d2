"""One file a model family: how a role's network is described, as `Config`."""
