"""Images of others: read from an archive, an engine or a registry, unpacked into one layer, run as a program."""
