"""What every process gets to end in, in one table: from SIGTERM until it is killed, and what its parts get of that.

`jiffy up` ends the gateways first, then invoker and builder side by side, then the queue. A part that takes longer is
left where it is; what it leaves behind is cleaned up at the next start. tests/contract/test_endings.py adds it all up.
"""

from __future__ import annotations

GATEWAY_S = 16.0
GATEWAY_CALLS_S = 10.0  # callers that still wait: as long as the calls that they wait for may take
GATEWAY_TRIGGERS_S = 3.0  # calls of queues that are consumed; their messages come again

WORKER_S = 26.0
INVOKER_HAND_OVER_S = 3.0  # what has not begun goes to other hosts
INVOKER_TELL_S = 2.0  # that we stop
INVOKER_CALLS_S = 10.0  # calls that run
INVOKER_SANDBOXES_S = 4.0  # and are ended, with everything that is warm
INVOKER_WORDS_S = 1.0  # for Redis to take what is still to be written
BUILDER_BUILDS_S = 8.0  # builds that are nearly done; the others begin again elsewhere

QUEUE_S = 5.0

ORPHANS_S = WORKER_S + 2.0  # until the processes of a killed `jiffy up`, which all end at once, must be gone
