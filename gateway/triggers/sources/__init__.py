"""Queues of other software, each behind one protocol: base.py. Which scheme is whose: doors.py."""
