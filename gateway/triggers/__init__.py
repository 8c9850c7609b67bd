"""What calls functions besides requests: schedules, queues, topics that functions declare. Read first: scheduler.py,
and for queues and topics consumer.py. Webhooks are requests: gateway/routes/hooks.py.

Every gateway runs all of it; Redis decides which one does a thing (store.py). What may be declared:
jiffy.contract.triggers.
"""
