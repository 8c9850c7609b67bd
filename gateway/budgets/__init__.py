"""Budgets: what a tenant, a function or a tag may spend in a day or a month. Quotas: how many calls it may make.

guard      read first: what is a call under, and may it be run?
budget     what a budget is; its periods; quota: what a quota is; scope: whose calls they are for; all pure
plan       what a function's calls may cost, of which counters, and which quotas they are under; pure
store      all of it in Redis, each change one step (scripts/)
warnings   who is told when a budget is close, or used up
seed       what was spent before a budget was set, from the ledger
"""
