"""Chaos: a platform of real processes, everything that can happen to them, and books that must balance to the call.

    schedule   what happens to whom and when, from a seed; pure
    fleet      gateways, invokers and the ledger as processes, each behind a wire to Redis (wire.py) that can be cut
    clients    synchronous, asynchronous and idempotent callers, and what each was promised
    books      every promise held against Redis and the ledger
    run        all of it together

``python -m tests.chaos --seed 7 --minutes 10`` runs it for as long as one likes; test_chaos.py runs it briefly.
"""
