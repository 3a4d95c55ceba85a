"""Which optimizer does a name mean? One file for each kind that is not `ngd.py`."""
