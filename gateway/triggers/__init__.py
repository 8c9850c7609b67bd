"""What calls functions besides requests: schedules, queues and topics that functions declare. Read first: scheduler.py.

Every gateway runs all of it; Redis decides which one does a thing (store.py). What may be declared:
jiffy.contract.triggers.
"""
