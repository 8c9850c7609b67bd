"""The durable book of what every attempt cost.

settle     read first: from the usage stream into SQL, each record exactly once; hours: its sums
prices     what a GB-second and a call cost, from when on; bookfile: as TOML and JSON; shelf: which are published
questions  breakdowns, pages and totals; sums, attempts: their SQL; lines: the rows they answer with
keeper     the ledger as processes know it: tasks, threads, connections; __main__: the one that settles
month      what a tenant owes for a month; statements: as documents, frozen once closed; page, chart: as HTML
advice, comparison, estimate   what would be cheaper; retention: how long single calls are kept
tables     the database's tables; database: the way to it; migrations: from older releases; feed: the usage stream
"""

from .bookfile import read_prices
from .keeper import Ledger, open_ledger

__all__ = ["Ledger", "open_ledger", "read_prices"]
