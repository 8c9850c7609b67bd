"""The bounds that users meet or that more than one room keeps, each with its reason. Units stand in the names.

Numbers that tune one module alone (pauses, batch sizes, patience) stand at its top, with their reasons; how long
processes get to end in is endings.py's.
"""

from __future__ import annotations

MIB = 1024 * 1024

# --- one call ---------------------------------------------------------------------------------------------
PAYLOAD_MAX_BYTES = 6 * MIB  # event and result alike; AWS Lambda's bound, so its functions fit
HEADERS_MAX_BYTES = 64 * 1024
STREAM_MAX_BYTES = 200 * MIB  # of one streamed answer; Lambda's bound
HEAD_MAX_BYTES = 4 * HEADERS_MAX_BYTES  # of its head as JSON, where a character of a header is up to 2 bytes
PIECE_MAX_BYTES = 64 * 1024  # of it in one frame from an agent
WINDOW_BYTES = 256 * 1024  # of it on the way to a caller who takes no more; then the function waits where it yields
RECEIPT_S = 5.0  # a gateway speaks of each streamed answer at least so often
RECEIPT_LOST_S = 15.0  # and one that has said nothing for so long is gone, and the caller with it
MEMORY_MIN_MB, MEMORY_DEFAULT_MB, MEMORY_MAX_MB = 64, 128, 10_240  # CPython alone needs about 15 MB
TIMEOUT_MIN_S, TIMEOUT_DEFAULT_S, TIMEOUT_MAX_S = 0.1, 3.0, 900.0  # Lambda's default and maximum
WAIT_MAX_S = 10.0  # how long a call may wait for an instance before its handler must have begun
ASYNC_WAIT_MAX_S = 6 * 3600.0  # the same where no caller is waiting; Lambda's largest event age
INIT_MAX_S = 10.0  # importing a function's module; Lambda's bound
INSTANCES_DEFAULT, INSTANCES_MAX = 100, 10_000
REQUESTS_MAX = 1_000_000_000  # max_requests: more is the same as never
SCRATCH_MAX_BYTES = 512 * MIB  # /tmp of one sandbox; Lambda's smallest
SCRATCH_INODES_MAX = 65_536  # files and folders there; each is about 1 KB of the kernel's memory
SHM_MAX_BYTES = 64 * MIB  # /dev/shm, as Docker gives
PIDS_MAX = 1024  # processes and threads of one sandbox: above any honest use, below the host's worry
OPEN_FILES_MAX = 1024

# --- names --------------------------------------------------------------------------------------------------
NAME_MAX_CHARS = 64
ENV_MAX_BYTES = 4 * 1024  # all names and values; Lambda's bound, and the envelope carries them
ROUTES_MAX = 50
TRIGGERS_MAX = 50  # per function
TRIGGERS_MAX_BYTES = 16 * 1024  # as JSON: they travel in the revision, and so in every call
TAGS_MAX = 10

# --- logs ---------------------------------------------------------------------------------------------------
LOG_ATTEMPT_MAX_BYTES = 256 * 1024  # what one attempt may keep; the rest is counted and dropped
LOG_CHUNK_MAX_BYTES = 64 * 1024
CHANGES_MAX = 1000  # of functions, that are still told: a gateway reads them as they come
LOG_ENTRIES_MAX = 10_000  # per function, approximate (XADD MAXLEN ~)
LOG_MAX_BYTES = 32 * MIB  # the same in bytes, of functions that print much; the older half goes
LOG_KEEP_S = 14 * 86400  # after the last entry; what a removed function's last calls printed goes that way, too

# --- triggers -----------------------------------------------------------------------------------------------
TOPIC_EVENTS_MAX = 100_000  # that one topic keeps, approximate
TOPIC_KEEP_DEFAULT_S, TOPIC_KEEP_MAX_S = 24 * 3600, 30 * 24 * 3600  # how long a topic keeps its events
TOPICS_MAX = 1000  # per tenant: who publishes to a name makes a topic
TOPIC_HOPS_MAX = 16  # functions that one event may go through by results that are published
TRIGGER_LOG_MAX = 1000  # entries per trigger, approximate

# --- source and build ---------------------------------------------------------------------------------------
SOURCE_MAX_BYTES = 50 * MIB  # packed upload; Lambda's bound for a zip
SOURCE_UNPACKED_MAX_BYTES = 250 * MIB  # Lambda's bound, code and dependencies together
SOURCE_MAX_FILES = 20_000
SOURCES_MAX_BYTES, SOURCES_MAX = 1024 * MIB, 5_000  # that wait for builds, all together: the queue's memory holds them
SOURCE_PATH_MAX_CHARS = 512
LAYER_FILES_MAX = 200_000  # in a layer that is pulled: ten times what code may have, for packages and systems
TEST_EVENTS_MAX = 20  # that a handler is run with while its slim image is built
IMAGE_MAX_BYTES = 2048 * MIB  # unpacked, of an image that is brought along; Lambda takes 10 GB
IMAGE_MAX_FILES = 200_000  # entries in its layers
KEEP_MAX = 100  # modules that a slim image keeps by name
BUILD_MAX_S = 300.0
REVISIONS_KEPT = 10  # newest ones of a function, beside the live one; each is about 2 KB of Redis
UNUSED_KEEP_S = 3600.0  # layers and images: longer than a build, or a call and the wait before it, can take
BUILD_KEEP_S = 3600  # how long a build's events and an uploaded source can be read

# --- results and queues -------------------------------------------------------------------------------------
RESULT_KEEP_S = 24 * 3600  # asynchronous results by id, unless result_keep_s says otherwise
RESULT_KEEP_MIN_S, RESULT_KEEP_MAX_S = 60.0, 14 * 86400.0
PROVISIONED_KEEP_S = 24 * 3600  # the number of the last batch of a process that writes no more
ONCE_KEEP_S = 24 * 3600  # within which an Idempotency-Key means the same call; no longer than results are kept
ONCE_KEY_MAX_CHARS = 255
RESULT_LOST_S = 3600  # beyond its latest end, before the record of a call that never ended is given up
RETRIES_DEFAULT, RETRIES_MAX = 2, 100  # after the first attempt; Lambda's default
MAX_AGE_MIN_S, MAX_AGE_MAX_S = 1.0, 7 * 86400.0  # of an asynchronous event; the default is ASYNC_WAIT_MAX_S
BACKOFF_MIN_S, BACKOFF_DEFAULT_S, BACKOFF_MAX_S = 0.0, 1.0, 3600.0  # the longest pause before the first retry
DELAY_MAX_S = 7 * 86400.0
DEAD_KEEP_S = 14 * 86400  # dead letters; the longest that SQS keeps messages
RESULT_LARGE_BYTES = 1024  # records of results from here on are counted by tenant; smaller ones are as small as calls
RESULTS_MAX_BYTES = 256 * MIB  # and what a tenant's may take; those that expire first make way
DEAD_MAX = 100_000  # dead letters of a tenant; the oldest make way
DEAD_MAX_BYTES = 256 * MIB  # and what their calls may take
DEAD_ERROR_MAX_BYTES = 16 * 1024  # of the last error in a dead letter
DESTINATION_MAX_CHARS = 2048
DESTINATIONS_DEEP = 16  # calls that lead to calls that lead to calls …: a circle ends here
DELIVERY_RETRIES, DELIVERY_MAX_AGE_S, DELIVERY_BACKOFF_S = 10, 24 * 3600, 5  # about 45 minutes of trying
BACKLOG_MAX = 1_000_000  # asynchronous calls of a tenant that have not ended: about 1.5 KB of Redis each, and payload
BACKLOG_MAX_BYTES = 1024 * MIB  # and what their payloads may take
ANSWERS_KEEP_S = 600  # answers that no gateway fetched
ORPHANS_KEEP_S = 3600  # answers of a gateway that died, by invocation
GATEWAY_GONE_S = 60.0  # without a word: one that was only paused finds its answers
STREAM_READ_MAX = 256  # entries in one XREADGROUP: the batch that makes the queue fast

# --- liveness -----------------------------------------------------------------------------------------------
HEARTBEAT_S = 0.5
QUIET_AFTER_S = 1.0  # one that has missed a beat gets none while another one can take them
SILENT_AFTER_S = 2.0  # a host that has not been heard of for so long gets no new calls
HELD_S = 3.0  # after a heartbeat that arrived, an invoker may begin calls for so long: nobody takes them away
TAKEN_AFTER_S = 3.5  # and after so long without one its calls are taken over; the difference is for clocks that drift

# --- money --------------------------------------------------------------------------------------------------
BILLING_STEP_MS = 100  # where no price book says otherwise
