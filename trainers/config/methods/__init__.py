"""One file a training method: its knobs as `Config`. The method itself is the file of the same name in trainers/methods."""
