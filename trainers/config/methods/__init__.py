"""Owns the keys of training methods, one file each, as `Config`; the method itself is the file of the same name in trainers/methods."""
