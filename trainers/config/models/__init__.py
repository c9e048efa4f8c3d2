"""Owns the keys of model families, one file each: how a role's network is described, as `Config`."""
