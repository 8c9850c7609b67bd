"""Queues, topics and places of files, each behind one protocol: base.py. Which address is whose: doors.py."""
