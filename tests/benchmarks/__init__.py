"""What Jiffy's speed is, measured from the client: ``make bench``, or ``python -m tests.benchmarks --help``.

__main__  which figures, in which order, against which aims
figures   how each figure is measured
load      the load generator: keep-alive connections, closed loop, its own CPU time stated
platform  a `jiffy up` of its own, with functions deployed into it
baseline  the same calls to a bare Starlette app under uvicorn, in the same run
"""
