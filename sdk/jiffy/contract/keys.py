"""The name of every Redis key, with its type. Nobody writes a key by hand.

Names of tenants and functions are validated (spec.check_name) before they get here, so they hold no colon.
"""

from __future__ import annotations

P = "jiffy:"  # what all of them begin with; `share` changes it


def share(name: str) -> None:
    """Let all names lie in one slot of a cluster from now on, by the hash tag `name`; "": there is no cluster.

    Each process's __main__ calls it before it wires anything: a name that was made before stays as it is.
    """
    before, after = P, f"jiffy:{{{name}}}:" if name else "jiffy:"
    ours = {n: v for n, v in globals().items() if n.isupper() and isinstance(v, str) and v.startswith(before)}
    globals().update({constant: after + value.removeprefix(before) for constant, value in ours.items()})  # P, too


# --- calls ------------------------------------------------------------------------------------------------
GROUP = "invokers"  # the consumer group on every calls stream


def calls(invoker: str) -> str:
    """stream {c: Call}: what this invoker shall run; read by group GROUP."""
    return f"{P}calls:{invoker}"


def answers(gateway: str) -> str:
    """list of Answer and Piece: what this gateway's callers wait for; expires after limits.ANSWERS_KEEP_S."""
    return f"{P}answers:{gateway}"


def receipts(invoker: str) -> str:
    """list of Receipt: what has become of answers that this invoker streams; expires after limits.ANSWERS_KEEP_S."""
    return f"{P}receipts:{invoker}"


def answer(invocation_id: str) -> str:
    """string Answer: of a synchronous call whose gateway died; expires after limits.ORPHANS_KEEP_S."""
    return f"{P}answer:{invocation_id}"


def invocation(invocation_id: str) -> str:
    """string InvocationRecord: an asynchronous invocation; expires Terms.keep_s after its end."""
    return f"{P}invocation:{invocation_id}"


# --- asynchronous calls: what is accepted and has not ended, what waits, what failed for good -------------------
LATER = f"{P}later"  # sorted set invocation → moment in ms: waits for it, then goes to an invoker's stream
LATER_CALLS = f"{P}later:calls"  # hash invocation → Call: those of LATER
DELIVERIES = f"{P}deliveries"  # sorted set delivery → moment: when it is tried, or its lease ends
DELIVERY_ITEMS = f"{P}deliveries:items"  # hash delivery → Delivery
METERED = f"{P}metered"  # string, a counter: usage records ever written to USAGE


def backlog(tenant: str) -> str:
    """hash invocation → "stream entry" or "later": every asynchronous call that was accepted and has not ended."""
    return f"{P}backlog:{tenant}"


def line(tenant: str, name: str, digest: str) -> str:
    """list of invocations with one order key, which run one after another: lines.py."""
    return f"{P}line:{tenant}:{name}:{digest}"


def results(tenant: str) -> str:
    """sorted set "key bytes" → when that large InvocationRecord expires, in ms; beside it, as ":bytes", their sum."""
    return f"{P}results:{tenant}"


def once(tenant: str, name: str, digest: str) -> str:
    """string "fingerprint invocation": who has this idempotency key (its digest); expires with its window."""
    return f"{P}once:{tenant}:{name}:{digest}"


def tally(tenant: str) -> str:
    """hash of counters of asynchronous calls: docs/guarantees.md lists them."""
    return f"{P}tally:{tenant}"


def callback_secret(tenant: str) -> str:
    """string "whsec_…": what a tenant's callbacks are signed with."""
    return f"{P}callback-secret:{tenant}"


def dead(tenant: str) -> str:
    """sorted set invocation → when it died, in ms."""
    return f"{P}dead:{tenant}"


def dead_letters(tenant: str) -> str:
    """hash invocation → DeadLetter."""
    return f"{P}dead:letters:{tenant}"


def dead_calls(tenant: str) -> str:
    """hash invocation → Call: the last attempt of each dead letter, to be shown and replayed."""
    return f"{P}dead:calls:{tenant}"


QUOTAS = f"{P}quotas"  # hash "tenant:name" → quota, as JSON


def quota_rate(tenant: str, name: str) -> str:
    """string: when all calls that were let in would have come at the quota's rate, in µs; expires by itself."""
    return f"{P}quota:rate:{tenant}:{name}"


def quota_places(tenant: str, name: str) -> str:
    """hash held:{slot} → how many calls run or wait: spending.py."""
    return f"{P}quota:places:{tenant}:{name}"


def provisioned(process: str) -> str:
    """string, a number: the last batch of Provisions that this process of an invoker wrote; expires after a day."""
    return f"{P}provisioned:{process}"


BUDGETS = f"{P}budgets"  # hash "tenant:name" → budget, as JSON


def spending(tenant: str, scope: str, period: str) -> str:
    """hash of one scope's counters in one day or month: fields in spending.py, and what was told (warnings.py)."""
    return f"{P}spending:{tenant}:{scope}:{period}"


USAGE = f"{P}usage"  # stream {u: Usage} and {p: Provision}: not yet settled into the ledger
LEDGER = f"{P}ledger"  # string: which gateway settles in the background; expires after seconds
GATEWAYS = f"{P}gateways"  # sorted set of gateways, as answers name them → when they were last there, in ms
STREAMS = f"{P}streams"  # sorted set invoker id → when it was alive, in ms: whoever may have calls on a stream
INVOKERS = f"{P}invokers"  # hash invoker id → Heartbeat


def holder(invoker: str) -> str:
    """string: the process that has this invoker's name; expires limits.TAKEN_AFTER_S after its last heartbeat."""
    return f"{P}holder:{invoker}"


BUILDERS = f"{P}builders"  # hash builder id → BuilderBeat
DRAINS = f"{P}drains"  # set of invoker ids: they shall take no calls

# --- functions ----------------------------------------------------------------------------------------------
FUNCTIONS_CHANGED = f"{P}functions:changed"  # pub/sub channel: "tenant:function"
CHANGES = f"{P}changes"  # stream {f: "tenant:function"}: the last about limits.CHANGES_MAX that were told on it


def functions(tenant: str) -> str:
    """set of a tenant's function names."""
    return f"{P}functions:{tenant}"


BASES_CHANGED = f"{P}bases:changed"  # pub/sub channel: the id of a layer store


def bases(store: str) -> str:
    """hash runtime → Layer: the usual base layers in a layer store, for stems before anything is deployed."""
    return f"{P}bases:{store}"


TENANTS = f"{P}tenants"  # set of tenants that have functions


def function(tenant: str, name: str) -> str:
    """hash: "live" → revision number; "latest" → highest number given; "rev:N" → Revision; "sbom:N" → its bill of
    materials, deflated (zlib).

    "aliases" → see aliases.py.

    "removed" → what "latest" was when a function of this name was removed.
    """
    return f"{P}function:{tenant}:{name}"


def revision_field(number: int) -> str:
    """field of a revision in the function's hash."""
    return f"rev:{number}"


def sbom_field(number: int) -> str:
    """field of a revision's bill of materials in the function's hash."""
    return f"sbom:{number}"


def logs(tenant: str, name: str) -> str:
    """stream {l: LogEntry}: at most about limits.LOG_ENTRIES_MAX, LOG_MAX_BYTES; expires after limits.LOG_KEEP_S."""
    return f"{P}logs:{tenant}:{name}"


def logs_size(tenant: str, name: str) -> str:
    """string: about how many bytes are in `logs`, or more; scripts/complete.lua makes it of that key."""
    return f"{logs(tenant, name)}:size"


# --- triggers -----------------------------------------------------------------------------------------------
def rate(tenant: str, function: str, name: str, client: str) -> str:
    """string, a time in µs: when all requests that an http trigger let in would have come at its rate; expires then."""
    return f"{P}rate:{tenant}:{function}:{name}:{client}"


def trigger(tenant: str, function: str, name: str) -> str:
    """hash of a trigger's state: gateway/triggers/store.py lists its fields."""
    return f"{P}trigger:{tenant}:{function}:{name}"


def trigger_lease(tenant: str, function: str, name: str) -> str:
    """string: the gateway that serves this queue; expires seconds after it was last heard of."""
    return f"{P}trigger-lease:{tenant}:{function}:{name}"


def trigger_log(tenant: str, function: str, name: str) -> str:
    """stream {k: kind, i: invocation, t: text}: what a trigger did, about limits.TRIGGER_LOG_MAX long."""
    return f"{P}trigger-log:{tenant}:{function}:{name}"


def files(tenant: str, function: str, name: str) -> str:
    """hash of a files trigger: file → the version that was dealt with; "" → which place they are in."""
    return f"{P}files:{tenant}:{function}:{name}"


def files_tries(tenant: str, function: str, name: str) -> str:
    """hash of a files trigger: file → how often it was handed out; of those that are not dealt with."""
    return f"{P}files-tries:{tenant}:{function}:{name}"


def topics(tenant: str) -> str:
    """hash topic → its settings, as JSON."""
    return f"{P}topics:{tenant}"


def topic(tenant: str, name: str) -> str:
    """stream {e: a CloudEvent, as JSON}; a consumer group per subscription."""
    return f"{P}topic:{tenant}:{name}"


# --- builds -------------------------------------------------------------------------------------------------
BUILDS = f"{P}builds"  # stream {b: BuildRequest}; read by group BUILD_GROUP
BUILD_GROUP = "builders"


def build(tenant: str, build_id: str) -> str:
    """stream {e: BuildEvent}; expires limits.BUILD_KEEP_S after its last event."""
    return f"{P}build:{tenant}:{build_id}"


SOURCES = f"{P}sources"  # hash {key of a source: its bytes}; those that have expired are still in it


def source(tenant: str, digest: str) -> str:
    """string: an uploaded source archive (tar.gz); expires limits.BUILD_KEEP_S after its last use."""
    return f"{P}source:{tenant}:{digest}"
