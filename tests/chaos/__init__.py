"""Chaos: a platform of real processes, everything that can happen to them, and books that must balance to the call.

    schedule   what happens to whom and when, from a seed; pure
    fleet      gateways, invokers and the ledger as processes, each on a host of its own (network.py), which can be cut
               off and lose packets; without root, behind a wire to Redis (wire.py). Redis and the ledger lie on a disk
               (disk.py) that becomes full, hosts' clocks disagree (skewed.py), an engine (tests/engines.py) restarts;
               or three servers are one Redis under Sentinel (tests/topologies.py) and fail over
    clients    synchronous, asynchronous, delayed, cancelling, idempotent and publishing callers, and what each was
               promised
    books      every promise held against Redis and the ledger
    run        all of it together

``python -m tests.chaos --seed 7 --minutes 10`` runs it for as long as one likes; test_chaos.py runs it briefly.
"""
