"""What travels through Redis: every message is a named tuple, so that packing it is one C call (see wire).

A message's first field is never reordered and fields are only ever added at the end, with a default: processes of
two releases can then share one queue during an upgrade.

    gateway ──Call──▶ calls:{invoker} ──▶ invoker ──Answer──▶ answers:{gateway}
    gateway ──Receipt──▶ receipts:{invoker}   ├──Piece──▶ answers:{gateway}  (of an answer that is streamed)
                                              ├──Usage, Provision──▶ usage   (settled into the ledger)
                                              ├──LogEntry──▶ logs:{tenant}:{function}
                                              └──Heartbeat──▶ invokers
    gateway ──BuildRequest──▶ builds ──▶ builder ──BuildEvent──▶ build:{id}
                                              └──Revision──▶ function:{tenant}:{name}
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from . import limits


class Outcome(StrEnum):
    """How an attempt ended."""

    OK = "ok"
    ERROR = "error"  # the handler raised, could not be imported, or returned what can't be sent
    TIMEOUT = "timeout"  # still running after timeout_ms; killed
    OUT_OF_MEMORY = "out_of_memory"  # passed memory_mb; killed
    CRASH = "crash"  # the process exited or died of a signal
    THROTTLED = "throttled"  # never began: a limit held until the latest moment it could have
    PLATFORM = "platform"  # we failed it

    @property
    def billable(self) -> bool:
        return self not in _UNBILLED

    @property
    def status(self) -> int:
        """The HTTP status of a function's URL for this outcome (OK: the function's own)."""
        return _STATUS[self]


_UNBILLED = frozenset({Outcome.THROTTLED, Outcome.PLATFORM})
_STATUS = {
    Outcome.OK: 200,
    Outcome.ERROR: 502,
    Outcome.TIMEOUT: 504,
    Outcome.OUT_OF_MEMORY: 502,
    Outcome.CRASH: 502,
    Outcome.THROTTLED: 429,
    Outcome.PLATFORM: 502,
}


class State(StrEnum):
    """What has become of an asynchronous invocation. `ended` ones change no more, unless a dead one is replayed."""

    QUEUED = "queued"  # on an invoker's stream, or waiting for its time: a delay, or the next attempt
    RUNNING = "running"
    DONE = "done"  # has a result
    DEAD = "dead"  # failed for good, and stands among the dead letters
    CANCELLED = "cancelled"  # taken back before it began

    @property
    def ended(self) -> bool:
        return self in (State.DONE, State.DEAD, State.CANCELLED)


class Layer(NamedTuple):
    """One content-addressed, unpacked, read-only layer."""

    kind: str  # "base" | "deps" | "code"
    digest: str  # "sha256:…" of its uncompressed tar
    size_bytes: int  # unpacked


class Process(NamedTuple):
    """What the image of a function starts, in the words of the OCI runtime specification."""

    args: tuple[str, ...]  # the first is a path in the image
    env: dict[str, str]  # the image's own, beneath the function's
    cwd: str
    http_port: int = 0  # where it serves HTTP; 0: it is a client of the Lambda Runtime API


class Revision(NamedTuple):
    """An immutable build of a function, all that is needed to run it. Travels inside every Call, already packed."""

    tenant: str
    function: str
    number: int  # 1, 2, 3 …
    digest: str  # "sha256:…" over layers and configuration; equal digest = nothing changed
    runtime: str  # resolved, e.g. "python3.11"
    layers: tuple[Layer, ...]  # base first, code last
    handler: str  # "module:attribute"
    memory_mb: int
    timeout_ms: int
    max_instances: int
    network: bool
    env: dict[str, str]
    routes: tuple[str, ...]  # as declared: "GET /hello/{name}"
    created_ms: int
    image: str = ""  # digest of the OCI manifest
    spec: dict[str, Any] = {}  # noqa: RUF012 - the declaration as the user wrote it, for `jiffy show`
    min_instances: int = 0  # kept ready on every host
    calls_max: int = 0  # of one instance; 0: any number, 1: reuse = "never"
    public: bool = False  # its URL and routes need no API key
    store: str = ""  # id of the layer store that holds its layers; "": any may
    stream: bool = False  # its answer goes out piece by piece, as the handler yields it
    process: Process | None = None  # of runtime "image"


class Terms(NamedTuple):
    """What was agreed about an asynchronous call when it was accepted, and how much of it is used up."""

    retries: int  # attempts after the first that a failing function gets
    expires_ms: int  # epoch, on the Redis server's clock: no attempt begins later
    backoff_ms: int = 1000  # the longest pause before the first retry; it doubles (retry.py)
    tried: int = 0  # attempts that have ended
    failed: int = 0  # of them, those that count against `retries`
    on_success: str = ""  # destinations: who is told of the end
    on_failure: str = ""
    depth: int = 0  # how many destinations led to this call
    keep_s: int = limits.RESULT_KEEP_S  # how long its result is readable
    unbegun: int = 0  # attempts that the platform failed before they began


class Call(NamedTuple):
    """One attempt at an invocation, on its way to an invoker."""

    invocation: str  # UUIDv7
    attempt: int  # 1, 2 …
    mode: str  # "sync" | "async"
    gateway: str  # whose answers:{gateway} list awaits the Answer; "" when nobody waits
    accepted_ms: int  # epoch, on the Redis server's clock
    deadline_ms: int  # epoch, on the Redis server's clock: the handler must have *ended* by then
    trigger: str  # "http" | "invoke" | "route GET /x" | later: a trigger's name
    revision: bytes  # wire.pack(Revision); the invoker unpacks each distinct one once
    payload: bytes  # the event, JSON; opaque to everyone but the agent
    terms: Terms | None = None  # of an asynchronous call
    tariff: tuple[int, int, int, bool] | tuple[()] = ()  # meter.Tariff: how its time becomes billed time
    recorded: bool = False  # synchronous: its answer is kept as a record too, for callers with the same idempotency key
    lost: str = ""  # the invoker that had it and was lost: the attempt has failed, it is not to be run
    hold: tuple[int, int, int, int, tuple[str, ...], tuple[str, ...]] | tuple[()] = ()  # spending.Hold, if it has one
    line: str = ""  # lines.digest of its order key: it runs after those accepted before it with the same one
    stream: bool = False  # its caller takes Pieces before the Answer


class Piece(NamedTuple):
    """Some of a streamed answer, on the list that its Answer follows on. It has fewer fields, which tells them apart.

    Written only while the attempt is still its invoker's; one whose number has been seen already is a resend.
    """

    invocation: str
    attempt: int
    number: int  # 0, 1, 2 …
    invoker: str  # who wants Receipts
    head: bytes  # number 0: {"statusCode", "headers"[, "cookies"]} as JSON; else empty
    body: bytes


class Receipt(NamedTuple):
    """How far a streamed answer has come, from its gateway to its invoker. The newest one says all."""

    invocation: str
    attempt: int
    taken_bytes: int  # of its body, since the beginning, that the caller's connection took
    gone: bool  # nobody takes any more


class Answer(NamedTuple):
    """What the caller's gateway is told about an attempt that has ended."""

    invocation: str
    attempt: int
    outcome: str  # Outcome
    payload: bytes  # the result (JSON) when OK, else {"errorType", "errorMessage"[, "stackTrace"]}
    cold: bool
    duration_us: int  # around the handler
    billed_ms: int
    init_us: int  # cold: from lease to ready, import included; else 0
    queue_us: int  # accepted → handler began, init excluded; never billed
    max_memory_bytes: int
    retry_after_s: float = 0.0  # throttled: when a place is likely
    pieces: int = 0  # streamed: how many Pieces came before, if it is whole


class Usage(NamedTuple):
    """What one attempt cost; written in the same atomic step as its completion."""

    invocation: str
    attempt: int
    tenant: str
    function: str
    revision: int
    trigger: str
    invoker: str
    started_ms: int  # epoch, on the Redis server's clock
    outcome: str
    cold: bool
    duration_us: int
    billed_ms: int
    init_us: int
    queue_us: int
    memory_mb: int
    max_memory_bytes: int
    cpu_us: int  # 0 where cgroups can't be read
    bytes_in: int
    bytes_out: int
    book: int = 0  # version of the price book whose terms made billed_ms; 0: of a call that carried none
    runtime: str = ""
    tags: str = ""  # "stage=prod,team=x": sorted


class Provision(NamedTuple):
    """What was kept ready of one revision (`min_instances`) on one host, in one minute."""

    id: str  # a UUID of this record alone
    tenant: str
    function: str
    revision: int
    invoker: str
    started_ms: int  # epoch: the full minute, on the Redis server's clock
    provisioned_ms: int  # of all these instances together
    idle_ms: int  # of that, the time in which they had no call
    memory_mb: int  # of one
    runtime: str
    tags: str  # as Usage.tags


class LogEntry(NamedTuple):
    """A piece of what an attempt printed. The last one of an attempt carries its report."""

    invocation: str
    attempt: int
    revision: int
    at_ms: int
    first: bool  # a START line goes before it
    text: bytes  # stdout and stderr, in order, as written
    dropped_bytes: int  # beyond limits.LOG_ATTEMPT_MAX_BYTES
    report: tuple[str, int, int, int, int, int] | None = None
    # (outcome, duration_us, billed_ms, memory_mb, max_memory_bytes, init_us): END and REPORT lines go after it


class InvocationRecord(NamedTuple):
    """An asynchronous invocation, readable by id for its Terms.keep_s after its end, a dead one for DEAD_KEEP_S."""

    invocation: str
    tenant: str
    function: str
    revision: int
    state: str  # State
    accepted_ms: int
    attempts: int  # that were begun or have ended
    answer: Answer | None  # the last one, once it has ended
    due_ms: int = 0  # queued: not before this moment
    reason: str = ""  # dead: DeadLetter.reason
    line: str = ""  # Call.line


class DeadLetter(NamedTuple):
    """An asynchronous call that failed for good. The call itself is kept beside it."""

    invocation: str
    tenant: str
    function: str
    revision: int
    reason: str  # retry.Reason
    attempts: int
    accepted_ms: int
    dead_ms: int
    outcome: str  # of the last attempt
    error: bytes  # of the last attempt: {"errorType", "errorMessage"[, "stackTrace"]}
    trigger: str
    payload_bytes: int
    target: str = ""  # not a call but a Delivery that did not get through, and where to


class Delivery(NamedTuple):
    """The end of an asynchronous call on its way to a destination."""

    id: str  # "invocation.attempt"
    target: str  # as declared: "function:NAME", "https://…"
    tenant: str
    function: str
    revision: int
    invocation: str
    attempts: int
    outcome: str
    reason: str  # dead: DeadLetter.reason
    ended_ms: int
    request: bytes  # the call's payload
    response: bytes  # its answer's
    depth: int  # how many destinations led here, this one included
    terms: Terms
    error: str = ""  # why the last try failed


class FunctionStatus(NamedTuple):
    """One function on one host, for `jiffy status`."""

    tenant: str
    function: str
    revision: int
    idle: int  # instances
    running: int
    frozen: int
    waiting: int  # calls
    memory_bytes: int
    calls: int  # since the invoker started
    cold_calls: int
    waited_us: int = 0  # all calls together, cold starts included
    min_instances: int = 0


class Heartbeat(NamedTuple):
    """What an invoker says about itself every limits.HEARTBEAT_S."""

    invoker: str
    host: str
    at_ms: int
    started_ms: int
    driver: str  # "docker" | "bwrap"
    network: bool  # can it give a function a network?
    running: int
    waiting: int
    instances_max: int  # over all functions
    memory_free_mb: int
    stems: dict[str, int]  # runtime → ready stems
    functions: tuple[FunctionStatus, ...]
    draining: bool = False
    instances: int = 0  # there are, idle and frozen ones included
    stems_wanted: dict[str, int] = {}  # noqa: RUF012 - runtime → how many are to stand ready
    decisions: dict[str, int] = {}  # noqa: RUF012 - what the pool decided → how often, since it started
    histograms: dict[str, tuple[tuple[int, ...], int]] = {}  # noqa: RUF012 - name → see histogram.Packed
    store: str = ""  # id of the layer store that it takes layers from
    registry: str = ""  # id of the registry's, from which it pulls what its own lacks
    bases: tuple[str, ...] = ()  # digests of the base layers that its stems stand on


class BuilderBeat(NamedTuple):
    """What a builder says about itself every limits.HEARTBEAT_S."""

    builder: str
    host: str
    at_ms: int
    runtimes: tuple[str, ...]  # what it can build: "python3.11", …
    building: int


class BuildRequest(NamedTuple):
    """Make a revision of a function from an uploaded source."""

    build: str  # UUIDv7
    tenant: str
    function: str
    spec: dict[str, Any]  # as validated by spec.FunctionSpec
    source: str  # "sha256:…" of the uploaded archive, in source:{digest}
    requested_ms: int
    locked: bool = False  # with the very packages of the revision in service


class BuildEvent(NamedTuple):
    """Progress of a build. The last one is "done" or "failed"."""

    kind: str  # "step" | "done" | "failed"
    text: str  # one line for people
    step: str  # "warning" | "unpack" | "base" | "deps" | "code" | "image" | "push" | "publish"
    at_ms: int
    elapsed_ms: int  # of this step
    cached: bool
    bytes: int
    revision: int = 0  # done: the number now live
    unchanged: bool = False  # done: no new revision was needed
    error_code: str = ""  # failed: JiffyError.code
