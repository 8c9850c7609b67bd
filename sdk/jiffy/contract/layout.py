"""Where things lie in a platform's data folder (``jiffy up --data DIR``), and inside a microcontainer. Pure paths.

DIR/
  valkey/                   the embedded queue's append-only file
  layers/sha256-HEX/        one unpacked layer: tree/ (read-only), layer.json
  layers/.id                which layer store this is: hosts that share it can run each other's revisions
  oci/                      an OCI image layout: oci-layout, index.json, blobs/sha256/HEX
  ledger.sqlite3            the ledger
  cache/                    the dependency resolver's download cache
  invoker-id builder-id     they keep their names, so that a restart finds its own queue and builds
  NAME.lock                 held by the process of that name: there is only one
  run/                      sockets and sandboxes' folders; emptied at every start
"""

from __future__ import annotations

from pathlib import Path

VALKEY = "valkey"
LAYERS = "layers"
OCI = "oci"
LEDGER = "ledger.sqlite3"
CACHE = "cache"
INVOKER_ID = "invoker-id"
BUILDER_ID = "builder-id"
RUN = "run"

# --- inside every microcontainer ----------------------------------------------------------------------------
TASK_DIR = "/var/task"  # the code layer
DEPS_DIR = "/opt/python"  # the dependency layer; of Node functions: NODE_DEPS_DIR
NODE_DEPS_DIR = "/opt/nodejs"  # as AWS Lambda's layers have it
RUNTIME_DIR = "/var/runtime"  # agent.py, serve.py, httpevent.py
SOCKET_DIR = "/run/jiffy"  # where a Docker sandbox's agent binds agent.sock
SCRATCH_DIR = "/tmp"  # noqa: S108 - the function's only writable place
UID = GID = 65534  # nobody


def layer_store_id(data: Path) -> Path:
    """The file with the layer store's id: its first user makes it, nobody changes it."""
    return data / LAYERS / ".id"


def ledger_url(data: Path) -> str:
    """The ledger's database where no other is named."""
    return f"sqlite:///{data.absolute() / LEDGER}"


def lock(data: Path, name: str) -> Path:
    """What the process of that name holds while it lives. `name` is a file name."""
    return data / f"{name.replace('/', '_')}.lock"


def layer(data: Path, digest: str) -> Path:
    """The folder of one unpacked layer. `digest` is "sha256:HEX" and is checked to be just that."""
    algorithm, _, digits = digest.partition(":")
    if algorithm != "sha256" or len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ValueError(f"{digest!r} is no sha256 digest")
    return data / LAYERS / f"sha256-{digits}"


def layer_tree(data: Path, digest: str) -> Path:
    """The root of one layer's files: base is a whole root file system, deps and code are just their folder."""
    return layer(data, digest) / "tree"


def deps_dir(runtime: str) -> str:
    """Where the dependency layer lies in a sandbox of this runtime."""
    return NODE_DEPS_DIR if runtime.startswith("nodejs") else DEPS_DIR
