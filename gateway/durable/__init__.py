"""Asynchronous calls, from their acceptance to their one end: a result, a dead letter, or cancelled.

acceptance    read first: how a call is accepted, and what a caller may wish for it (wishes.py)
once          calls with an idempotency key, synchronous ones too: one execution, one answer for all who ask
later         moves calls that are due (delayed ones, next attempts) to invokers
dead_letters  calls that failed for good: list, show, replay, purge
takeover      what an invoker that fell silent left goes to others (takeover_store.py)
orphans       answers that a gateway which died did not pass on, kept to be asked for
deliveries    who hears of an end: functions, signed HTTP callbacks (callbacks.py)
audit         does it all add up?
store         all of it in Redis, one atomic step each: scripts/*.lua

What follows an attempt is decided where it ends: jiffy.contract.retry, in the invoker's completion. What is promised
is in docs/guarantees.md.
"""
