"""The command line. `main.py` first: the list of commands; each lives in a module of its own and is loaded on use."""
