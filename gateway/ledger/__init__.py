"""The durable book of what every attempt cost.

settle     read first: from the usage stream into SQL, each record exactly once
prices     what a GB-second and a call cost, from when on; prices.toml is the shipped list
questions  breakdowns, pages and totals; lines: the rows they answer with
keeper     the ledger as the gateway knows it: tasks, threads, connections
tables     the database; feed: the usage stream in Redis
"""

from .keeper import Ledger, open_ledger

__all__ = ["Ledger", "open_ledger"]
