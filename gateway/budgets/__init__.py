"""Budgets: what a tenant, a function or a tag may spend in a day or a month.

guard.py     read first: which budgets is a call under, and may it be run?
budget.py    what a budget is; its periods; pure
plan.py      what a function's calls may cost, of which counters; pure
store.py     budgets and their counters in Redis, each change one step (scripts/)
warnings.py  who is told when one is close, or used up
seed.py      what was spent before a budget was set, from the ledger
"""
