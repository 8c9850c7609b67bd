"""From nothing to a bill, against a real `jiffy up`, once with each kind of sandbox.

What a user would notice, asked through the command line and over HTTP. How the processes are kept: test_up.py.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.platforms import Up, platform

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

TROUBLE = """
import asyncio, base64, ctypes, os, subprocess, sys, time

STARTED = time.time()

def handler(event, context):
    return globals()[event["do"]](event, context)

def pid(event, context): return os.getpid()
def raises(event, context):
    text = "no such thing"
    raise ValueError(text)
def sleeps(event, context): time.sleep(60)
def grows(event, context): return len(bytearray(os.urandom(1024)) * 1024 * 400)
def exits(event, context): os._exit(3)
def segfaults(event, context): ctypes.string_at(0)
def prints(event, context):
    for n in range(20_000): print(f"{n:049d}")
    return "printed"
def forks(event, context):
    subprocess.Popen(["/usr/local/bin/python3." + str(sys.version_info[1]), "-c", "import time; time.sleep(600)"])
    return "forked"
def returns_a_set(event, context): return {1, 2}
def forges(event, context):
    frame = b'\\x00\\x00\\x00\\x0a\\x00\\x00\\x00\\x02{"t":"ok"}{}'
    os.write(1, frame); sys.stderr.buffer.write(frame); print('{"t":"ok"}')
    return "honest"
def about(event, context):
    return [context.function_name, context.memory_limit_in_mb, context.function_version, context.aws_request_id,
            0 < context.get_remaining_time_in_millis() <= 1000]

async def awaits(event, context):
    await asyncio.sleep(0.001)
    return event["value"]

def answers(event, context):
    method = event["requestContext"]["http"]["method"]
    return {"statusCode": 201, "headers": {"x-method": method}, "cookies": ["a=1", "b=2"],
            "body": base64.b64encode(b"\\x00\\xff").decode(), "isBase64Encoded": True}

def too_much(event, context): return "x" * 50_000_000

def bad_status(event, context): return {"statusCode": "many"}
"""
TOML = """
[functions.trouble]
handler = "trouble:handler"
memory_mb = 64
timeout_s = 1
[functions.awaits]
handler = "trouble:awaits"
[functions.answers]
handler = "trouble:answers"
routes = ["ANY /things/{id}", "GET /files/{path+}"]
[functions.too-much]
handler = "trouble:too_much"
memory_mb = 512
[functions.bad]
handler = "trouble:bad_status"
"""


@pytest.fixture(scope="module", params=["bwrap", pytest.param("docker", marks=pytest.mark.docker)])
def up(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A platform that all tests of this file share, with functions that do all there is to do wrong."""
    folder = tmp_path_factory.mktemp("platform")
    for made in (folder, folder.parent, folder.parent.parent):
        made.chmod(0o755)
    with platform(folder / "data", "--sandbox", request.param) as running:
        running.deploy(folder / "trouble", TOML, trouble__py=TROUBLE)
        yield running
    assert running.left() == []


def test_the_example_from_deploy_to_bill(up: Up) -> None:
    printed = up.jiffy("deploy", str(EXAMPLES / "hello"))
    assert printed.stdout == f"hello  revision 1  {up.url}/function/hello\n"
    assert "hello: code" in printed.stderr
    cold, warm = up.get("/hello/Ada"), up.get("/hello/Ada")
    assert [r.json()["message"] for r in (cold, warm)] == ["Hello, Ada!"] * 2
    assert (cold.headers["jiffy-cold"], warm.headers["jiffy-cold"]) == ("true", "false")
    assert float(cold.headers["jiffy-init-ms"]) > 0 and "jiffy-init-ms" not in warm.headers
    assert warm.headers["jiffy-billed-ms"] == "100" and float(warm.headers["jiffy-duration-ms"]) < 100
    assert up.json("invoke", "hello", '{"name": "Grace"}')["result"]["message"] == "Hello, Grace!"
    bill = up.json("bill", "--function", "hello")
    ids = [r.headers["jiffy-invocation-id"] for r in (warm, cold)]
    assert [row["invocation"] for row in bill["rows"]][1:] == ids
    assert bill["total"]["calls"] == 3
    assert sum(Decimal(row["price"]) for row in bill["rows"]) == Decimal(bill["total"]["price"]) > 0


def test_unchanged_code_makes_no_new_revision(up: Up, tmp_path: Path) -> None:
    toml = '[functions.same]\nhandler = "m:f"\n'
    assert "revision 1" in up.deploy(tmp_path / "s", toml, m__py="f = lambda e, c: 1\n")
    again = up.deploy(tmp_path / "s", toml + "# a comment\n", m__py="f = lambda e, c: 1\n")
    assert again == f"same  revision 1  {up.url}/function/same  (unchanged)\n"
    assert "revision 2" in up.deploy(tmp_path / "s", toml, m__py="f = lambda e, c: 2\n")
    assert [r["revision"] for r in up.json("show", "same")["revisions"] if r["live"]] == [2]
    shown = up.json("show", "same")["revisions"]
    for number in (1, 2):
        bill = json.loads(up.jiffy("show", "same", "--sbom", "--revision", str(number)).stdout)
        assert bill["metadata"]["component"]["version"] == shown[2 - number]["image"]
    pruned = up.json("prune", "--keep", "1", "--data", str(up.data))
    assert pruned["revisions"] == ["default/same:1"]
    assert "not kept any more" in up.jiffy("rollback", "same", "1", status=1).stderr
    assert up.invoke("same").json() == 2
    assert "no revision 9" in up.jiffy("show", "same", "--sbom", "--revision", "9", status=1).stderr


def test_a_deploy_under_load_fails_no_call(up: Up, tmp_path: Path) -> None:
    toml = '[functions.version]\nhandler = "m:f"\n'
    source = "def f(event, context): return {}\n"
    up.deploy(tmp_path / "v", toml, m__py=source.format(1))
    stop, seen, failed = threading.Event(), [], []

    def caller() -> None:
        with httpx.Client(base_url=up.url, trust_env=False, timeout=30) as http:
            while not stop.is_set():
                answer = http.get("/function/version")
                seen.append(answer.text)
                if answer.status_code != 200:
                    failed.append((answer.status_code, answer.text))

    callers = [threading.Thread(target=caller) for _ in range(4)]
    for one in callers:
        one.start()
    try:
        for number in (2, 3, 4):
            up.deploy(tmp_path / "v", toml, m__py=source.format(number))
    finally:
        stop.set()
        for one in callers:
            one.join()
    assert failed == []
    assert {"1", "4"} <= set(seen) | {up.get("/function/version").text}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"m__py": "def f(event, context)\n"}, "m.py"),
        ({"m__py": "def g(event, context): pass\n"}, "f"),
        (
            {"m__py": "def f(event, context): pass\n", "requirements__txt": "no-such-package-as-this==0.0\n"},
            "no-such-package",
        ),
        ({"m__py": "def f(event, context): pass\n", "requirements__txt": "-e .\n"}, "requirements.txt"),
    ],
)
def test_a_broken_deploy_says_why_and_keeps_the_old_revision(
    up: Up, tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    toml = '[functions.kept]\nhandler = "m:f"\n[functions.fine]\nhandler = "other:f"\n'
    other = {"other__py": "def f(event, context): return 'fine'\n"}
    up.deploy(tmp_path / "k", toml, m__py="def f(event, context): return 'old'\n", **other)
    for name, text in files.items():
        (tmp_path / "k" / name.replace("__", ".")).write_text(text)
    failed = up.jiffy("deploy", str(tmp_path / "k"), "--only", "kept", status=1)
    assert "kept was not deployed: " in failed.stderr and reason in failed.stderr
    assert "Traceback" not in failed.stderr and failed.stdout == ""
    assert up.get("/function/kept").json() == "old"
    up.jiffy("remove", "kept", "--yes")
    up.jiffy("remove", "fine", "--yes")


def test_http_as_payload_2_has_it(up: Up) -> None:
    answer = up.http.put("/things/a%20b")
    assert (answer.status_code, answer.content, answer.headers["x-method"]) == (201, b"\x00\xff", "PUT")
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert up.get("/files/a/b/c").status_code == 201
    assert up.http.post("/files/a").status_code == 405
    assert up.get("/nowhere").status_code == 404
    bad = up.get("/function/bad")
    assert (bad.status_code, bad.json()["errorType"]) == (502, "Jiffy.BadResponse")
    assert "statusCode" in bad.json()["errorMessage"]


def test_a_handler_may_be_async_and_knows_where_it_is(up: Up) -> None:
    assert up.invoke("awaits", {"value": [1]}).json() == [1]
    answer = up.invoke("trouble", {"do": "about"})
    assert answer.json() == ["trouble", "64", "1", answer.headers["jiffy-invocation-id"], True]


OUTCOMES = [
    ("raises", "error", "ValueError", "no such thing"),
    ("sleeps", "timeout", "Sandbox.Timedout", "timed out after 1.00 seconds"),
    ("grows", "out_of_memory", "Runtime.OutOfMemory", "memory_mb = 64"),
    ("exits", "crash", "Runtime.ExitError", "status 3"),
    ("segfaults", "crash", "Runtime.ExitError", "SIGSEGV"),
    ("returns_a_set", "error", "Runtime.MarshalError", "set"),
]


@pytest.mark.parametrize(("what", "outcome", "kind", "part"), OUTCOMES)
def test_what_a_function_can_do_wrong_is_an_outcome(up: Up, what: str, outcome: str, kind: str, part: str) -> None:
    answer = up.invoke("trouble", {"do": what})
    error = answer.json()
    assert (answer.status_code, answer.headers["jiffy-outcome"], error["errorType"]) == (200, outcome, kind), error
    assert part in error["errorMessage"]
    assert up.invoke("trouble", {"do": "about"}).json()[0] == "trouble", "the next call must work"


def test_fifty_megabytes_are_too_many(up: Up) -> None:
    for _ in range(2):
        answer = up.invoke("too-much")
        assert (answer.headers["jiffy-outcome"], answer.json()["errorType"]) == (
            "error",
            "Function.ResponseSizeTooLarge",
        )


def test_an_error_shows_the_functions_own_frames_only(up: Up) -> None:
    error = up.invoke("trouble", {"do": "raises"}).json()
    stack = "".join(error["stackTrace"])
    assert "/var/task/trouble.py" in stack and "raise ValueError(text)" in stack and "/var/runtime" not in stack
    told = up.jiffy("invoke", "trouble", '{"do": "raises"}', status=1)
    assert told.stdout == "" and "ValueError: no such thing\nerror in " in told.stderr


def test_failures_over_http(up: Up, tmp_path: Path) -> None:
    source = "import time\ndef boom(e, c): 1 / 0\ndef slow(e, c): time.sleep(9)\n"
    toml = '[functions.boom]\nhandler = "m:boom"\n[functions.slow]\nhandler = "m:slow"\ntimeout_s = 0.2\n'
    up.deploy(tmp_path / "f", toml, m__py=source)
    boom, slow = up.get("/function/boom"), up.get("/function/slow")
    assert (boom.status_code, boom.json()["errorType"]) == (502, "ZeroDivisionError")
    assert (slow.status_code, slow.headers["jiffy-outcome"]) == (504, "timeout")
    assert float(slow.headers["jiffy-duration-ms"]) >= 200


def test_a_module_that_cannot_be_imported(up: Up, tmp_path: Path) -> None:
    up.deploy(tmp_path / "i", '[functions.unimportable]\nhandler = "m:f"\n', m__py="import nope\ndef f(e, c): pass\n")
    answer = up.get("/function/unimportable")
    assert (answer.status_code, answer.json()["errorType"]) == (502, "Runtime.ImportModuleError")
    assert "nope" in answer.json()["errorMessage"]


def test_what_a_function_prints_is_in_its_log_in_order_and_forges_nothing(up: Up) -> None:
    forged = up.invoke("trouble", {"do": "forges"})
    assert forged.json() == "honest"
    printed = up.invoke("trouble", {"do": "prints"})
    assert printed.json() == "printed"
    invocation = printed.headers["jiffy-invocation-id"]
    lines = up.jiffy("logs", "trouble", "--invocation", invocation).stdout.splitlines()
    assert lines[0] == f"START RequestId: {invocation} Version: 1"
    assert lines[-2] == f"END RequestId: {invocation}"
    assert lines[-1].startswith(f"REPORT RequestId: {invocation}\tDuration: ")
    kept = [int(line) for line in lines[1:-2] if len(line) == 49 and line.isdigit()]
    assert kept == list(range(len(kept))) and len(kept) > 4000
    assert any("bytes more were printed" in line for line in lines)


def test_processes_that_stay_are_ended(up: Up) -> None:
    assert up.invoke("trouble", {"do": "forks"}).json() == "forked"
    assert up.invoke("trouble", {"do": "about"}).json()[0] == "trouble"


def test_asynchronous_calls(up: Up) -> None:
    accepted = up.invoke("awaits", {"value": 7}, mode="async")
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"/v1/invocations/{accepted.json()['invocation']}"
    call = up.json("invoke", "awaits", '{"value": 8}', "--async", "--wait")
    assert (call["outcome"], call["result"]) == ("ok", 8)
    record = up.get(f"/v1/invocations/{call['invocation']}").json()
    assert (record["state"], record["attempts"], record["result"]) == ("done", 1, 8)
    failed = up.json("invoke", "trouble", '{"do": "raises"}', "--async", "--wait", status=1)
    assert (failed["outcome"], failed["error"]["errorType"]) == ("error", "ValueError")
    assert up.invoke("nobody", mode="async").status_code == 404
    assert up.get("/v1/invocations/nonsense").status_code == 404


def test_calls_scale_out_up_to_max_instances(up: Up, tmp_path: Path) -> None:
    source = "import os, time\ndef f(e, c):\n    time.sleep(0.3)\n    return os.getpid()\n"
    up.deploy(tmp_path / "c", '[functions.crowd]\nhandler = "m:f"\nmax_instances = 3\n', m__py=source)
    pids: list[int] = []
    callers = [threading.Thread(target=lambda: pids.append(up.invoke("crowd").json())) for _ in range(9)]
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    assert len(pids) == 9 and len(set(pids)) == 3


def test_a_dependency_and_binary_bodies(up: Up) -> None:
    up.jiffy("deploy", str(EXAMPLES / "thumbnail"))
    photo = (EXAMPLES / "thumbnail/photo.jpg").read_bytes()
    answer = up.http.post("/thumbnail", content=photo, headers={"content-type": "image/jpeg"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg"), answer.text
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, max(image.size)) == ("JPEG", 128)
    event = {"body": base64.b64encode(b"no image").decode(), "isBase64Encoded": True}
    assert up.invoke("thumbnail", event).json()["statusCode"] == 415


def test_the_bill_adds_up_however_it_is_cut(up: Up) -> None:
    up.invoke("awaits", {"value": 1})
    bills = [up.json("bill", "--by", by) for by in ("call", "function", "day")]
    assert len({json.dumps(bill["total"], sort_keys=True) for bill in bills}) == 1
    for bill in bills:
        for key in ("price", "gb_seconds"):
            assert sum(Decimal(row[key]) for row in bill["rows"]) == Decimal(bill["total"][key])


def test_the_other_commands(up: Up, tmp_path: Path) -> None:
    up.deploy(
        tmp_path / "g", '[functions.gone]\nhandler = "m:f"\nroutes = ["GET /gone"]\n', m__py="def f(e, c): return 1\n"
    )
    assert up.get("/gone").status_code == 200
    assert "gone" in up.jiffy("list").stdout
    assert f"{up.url}/function/gone" in up.jiffy("show", "gone").stdout
    assert up.sandbox in up.jiffy("status").stdout
    assert up.jiffy("remove", "gone", status=1, stdin="n\n").stdout == ""
    assert up.jiffy("remove", "gone", stdin="y\n").stdout == "removed gone\n"
    assert [up.get(path).status_code for path in ("/gone", "/function/gone")] == [404, 404]
    assert "there is no function 'gone'" in up.jiffy("show", "gone", status=1).stderr
