"""Programs that ask for their events (runtime = "provided"): one behaviour, two drivers, seen as the pool sees it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from builder.layers import LayerStore
from builder.runtimes.provided import bootstrap
from invoker.client import Client
from invoker.microcontainer import Loaded, State
from invoker.program import Program
from invoker.sandbox import Exit, Reply
from jiffy.contract import layout, limits
from jiffy.contract.errors import SandboxFailed
from jiffy.contract.messages import Revision
from tests.conftest import need

from .lab import Lab

pytestmark = pytest.mark.root

# A client of the Runtime API that does what its event says; the event's first character chooses.
SOURCE = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static FILE *api;
static char id[128];

static char *ask(const char *method, const char *path, const char *headers, const char *body, size_t size,
                 size_t *got) {
    char line[4096];
    fprintf(api, "%s /2018-06-01/runtime/%s HTTP/1.1\r\nHost: api\r\n%sContent-Length: %zu\r\n\r\n",
            method, path, headers, size);
    fwrite(body, 1, size, api);
    fflush(api);
    size_t length = 0;
    static char status[4096];
    if (!fgets(status, sizeof status, api)) exit(9);
    while (fgets(line, sizeof line, api) && strcmp(line, "\r\n")) {
        char *value = strchr(line, ':');
        *value++ = 0;
        value += strspn(value, " ");
        value[strcspn(value, "\r\n")] = 0;
        if (!strcasecmp(line, "Content-Length")) length = strtoul(value, NULL, 10);
        if (!strcasecmp(line, "Lambda-Runtime-Aws-Request-Id")) strcpy(id, value);
    }
    char *answer = calloc(1, length + 5);
    memcpy(answer, status + 9, 4);  /* "202 " */
    if (fread(answer + 4, 1, length, api) != length) exit(8);
    if (got) *got = length + 4;
    return answer;
}

static void reply(const char *kind, const char *headers, const char *body, size_t size) {
    char path[256];
    snprintf(path, sizeof path, "invocation/%s/%s", id, kind);
    free(ask("POST", path, headers, body, size, NULL));
}

int main(int argc, char **argv) {
    char host[64], text[65536];
    int port;
    printf("begins %s\n", getenv("GREETING"));
    fflush(stdout);
    const char *start = getenv("START");
    if (start && !strcmp(start, "exit")) return 4;
    if (start && !strcmp(start, "abort")) *(volatile int *)0 = 1;
    if (start && !strcmp(start, "memory")) {
        char *all = malloc(512 << 20);
        memset(all, 1, 512 << 20);
        printf("%d", all[7]);
    }
    sscanf(getenv("AWS_LAMBDA_RUNTIME_API"), "%63[^:]:%d", host, &port);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) return 7;
    api = fdopen(fd, "r+");
    if (start && !strcmp(start, "error")) {
        const char *error = "{\"errorType\":\"Mine.NoStart\",\"errorMessage\":\"no\"}";
        free(ask("POST", "init/error", "", error, strlen(error), NULL));
        pause();
    }
    for (;;) {
        size_t got;
        char *event = ask("GET", "invocation/next", "", "", 0, &got);
        event += 4;  /* the status */
        got -= 4;
        switch (event[1]) {  /* behind the JSON string's quote */
        case 'e': {
            const char *error = "{\"errorType\":\"Mine.Bad\",\"errorMessage\":\"bad\",\"stackTrace\":[\"here\"]}";
            reply("error", "Lambda-Runtime-Function-Error-Type: Function.Bad\r\n", error, strlen(error));
            break;
        }
        case 'w':  /* an error without a document */
            reply("error", "Lambda-Runtime-Function-Error-Type: Function.Odd\r\n", "what", 4);
            break;
        case 'v': {  /* the environment */
            snprintf(text, sizeof text, "[\"%s\",\"%s\",\"%s\",\"%s\",%d]", getenv("_HANDLER"), getenv("GREETING"),
                     getenv("AWS_LAMBDA_FUNCTION_NAME"), getcwd(host, sizeof host), getuid() != 0);
            reply("response", "", text, strlen(text));
            break;
        }
        case 's': {  /* out of order: what is said back */
            char *twice = ask("GET", "invocation/next", "", "", 0, NULL);
            char *foreign = ask("POST", "invocation/0190-other/response", "", "{}", 2, NULL);
            char *nowhere = ask("GET", "restore/next", "", "", 0, NULL);
            snprintf(text, sizeof text, "[%.3s,%.3s,%.3s]", twice, foreign, nowhere);
            reply("response", "", text, strlen(text));
            break;
        }
        case 'l': {  /* too long */
            size_t size = 7 << 20;
            reply("response", "", memset(malloc(size), '1', size), size);
            break;
        }
        case 'm': {  /* memory */
            char *all = malloc(512 << 20);
            memset(all, 1, 512 << 20);
            printf("%d", all[9]);
            break;
        }
        case 'h':  /* hangs */
            pause();
            break;
        case 'p': {  /* pipelines, and never reads */
            char many[] = "GET /nothing HTTP/1.1\r\nHost: api\r\n\r\nGET /nothing HTTP/1.1\r\nHost: api\r\n\r\n";
            for (;;) {
                int flood = socket(AF_INET, SOCK_STREAM, 0);
                if (!connect(flood, (struct sockaddr *)&to, sizeof to))
                    while (send(flood, many, sizeof many - 1, MSG_NOSIGNAL) > 0);
                close(flood);
            }
        }
        case 'r':  /* takes every refusal, and asks again */
            for (;;) free(ask("GET", "restore/next", "", "", 0, NULL));
        case 'x':
            return 5;
        case 'k':
            *(volatile int *)0 = 1;
            break;
        case 'f': {  /* a file, and who may write where */
            snprintf(text, sizeof text, "[%d,%d,%d]", access("/tmp", W_OK),
                     access("/var/task", W_OK), access("/var/runtime", F_OK));
            reply("response", "", text, strlen(text));
            break;
        }
        default:
            fprintf(stderr, "got %zu\n", got);
            reply("response", "", event, got);
        }
        free(event - 4);
    }
}
"""


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    need("" if compiler else "no C compiler here")
    assert compiler is not None
    folder = tmp_path_factory.mktemp("compiled")
    source = folder / "client.c"
    source.write_text(SOURCE)
    for name, flags in (("dynamic", ()), ("static", ("-static",))):
        subprocess.run([compiler, "-O1", "-w", *flags, "-o", str(folder / name), str(source)], check=True, timeout=60)
    return folder


Make = Callable[..., Revision]


@pytest.fixture
def make(lab: Lab, compiled: Path) -> Make:
    def revision(link: str = "dynamic", start: str = "", **changes: Any) -> Revision:
        store = LayerStore(lab.data)
        with store.staging() as folder:
            code = folder / "code"
            code.mkdir()
            shutil.copyfile(compiled / link, code / "bootstrap")
            assert bootstrap.check(code) == ""
            base, _ = bootstrap.base(store, code, network=False)
            layer = store.put("code", code, layout.TASK_DIR)
        env = {"GREETING": "hello", **({"START": start} if start else {})}
        plain = lab.revision("", runtime="provided", handler="bootstrap", layers=(base.layer, layer.layer), env=env)
        return plain._replace(**changes)

    return revision


Begin = Callable[[Revision], Awaitable[tuple[Program, Loaded]]]


@pytest.fixture
async def begin(lab: Lab) -> AsyncIterator[Begin]:
    programs: list[Program] = []

    async def start(revision: Revision) -> tuple[Program, Loaded]:
        program = await Program.start(lab.driver, lab.data, "provided", revision.layers[0])
        programs.append(program)
        return program, await program.specialise(revision)

    yield start
    for program in programs:
        await program.close()


async def call(client: Client, event: object, timeout_s: float = 10.0) -> Reply | Exit:
    return await client.call({"id": "0190-call"}, json.dumps(event).encode(), timeout_s)


async def result(client: Client, event: object) -> Any:
    reply = await call(client, event)
    assert isinstance(reply, Reply), reply
    assert reply.ok, reply
    return json.loads(reply.payload)


async def instance(begin: Begin, revision: Revision) -> Client:
    program, loaded = await begin(revision)
    assert loaded.error is None, loaded
    assert loaded.log == b"begins hello\n"
    return await program.fork()


@pytest.mark.parametrize("link", ["dynamic", "static"])
async def test_an_executable_answers_events_in_an_image_of_its_own(
    lab: Lab, make: Make, begin: Begin, link: str
) -> None:
    revision = make(link)
    tree = layout.layer_tree(lab.data, revision.layers[0].digest)
    files = {path.relative_to(tree).parts[0] for path in tree.rglob("*") if path.is_file()}
    assert files <= {"etc", "lib", "lib64", "usr"}
    assert not list(tree.rglob("*jiffy*/*")), "nothing of ours"
    assert any(tree.rglob("libc.so*")) is (link == "dynamic")
    client = await instance(begin, revision)
    assert await result(client, ["ü", 1]) == ["ü", 1]
    assert await result(client, ["again"]) == ["again"]
    assert client.read_log().startswith(b"got ")
    assert client.calls == 2
    big = "x" * (limits.PAYLOAD_MAX_BYTES - 4)
    assert await result(client, [big]) == [big]


async def test_it_finds_lambdas_environment(make: Make, begin: Begin) -> None:
    client = await instance(begin, make())
    assert await result(client, "v") == ["bootstrap", "hello", "hello", "/var/task", 1]
    assert await result(client, "f") == [0, -1, -1]


async def test_its_errors_are_the_functions(make: Make, begin: Begin) -> None:
    client = await instance(begin, make())
    bad, odd, long = [await call(client, event) for event in ("e", "w", "l")]
    assert isinstance(bad, Reply) and isinstance(odd, Reply) and isinstance(long, Reply)
    assert (bad.ok, json.loads(bad.payload)["errorType"], json.loads(bad.payload)["stackTrace"]) == (
        *(False, "Mine.Bad"),
        ["here"],
    )
    assert (json.loads(odd.payload)["errorType"], json.loads(odd.payload)["errorMessage"]) == ("Function.Odd", "what")
    assert json.loads(long.payload)["errorType"] == "Function.ResponseSizeTooLarge"
    assert await result(client, ["still there"]) == ["still there"]


async def test_what_is_said_out_of_order_is_refused(make: Make, begin: Begin) -> None:
    client = await instance(begin, make())
    assert await result(client, "s") == [403, 400, 404]


@pytest.mark.parametrize(
    ("event", "reason", "code"),
    [
        *(("x", "exit", 5), ("k", "signal", 11), ("m", "out_of_memory", 9), ("h", "timeout", 9)),
        *(("p", "closed", 9), ("r", "closed", 9)),
    ],
)
async def test_it_ends_instead_of_answering(make: Make, begin: Begin, event: str, reason: str, code: int) -> None:
    client = await instance(begin, make())
    program = client.sandbox
    assert isinstance(program, Program)
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    client.on_exit = lambda _: gone.set_result(None)
    end = await call(client, event, 0.5 if event == "h" else 10.0)
    assert isinstance(end, Exit)
    if reason == "out_of_memory":
        need("no control groups here" if program._group is None else "")
    assert (end.reason, end.code) == (reason, code)
    await asyncio.wait_for(gone, 10)
    await program.close()
    assert program.state is State.CLOSED
    assert await call(client, "late") == end


@pytest.mark.parametrize(
    ("start", "kind", "message"),
    [
        ("exit", "Runtime.ExitError", "exit status 4"),
        ("abort", "Runtime.ExitError", "signal 11"),
        ("error", "Mine.NoStart", "no"),
        ("memory", "Runtime.OutOfMemory", "memory_mb = 128"),
    ],
)
async def test_a_failing_start_is_the_functions_own_failure(
    make: Make, begin: Begin, start: str, kind: str, message: str
) -> None:
    _, loaded = await begin(make(start=start))
    assert loaded.error is not None
    assert json.loads(loaded.error)["errorType"] == kind
    assert message in json.loads(loaded.error)["errorMessage"]
    said = f"[ERROR] {kind}: {json.loads(loaded.error)['errorMessage']}\n" if start != "error" else ""
    assert loaded.log.decode() == f"begins hello\n{said}"


async def test_it_has_one_instance_which_sleeps_and_leaves(lab: Lab, make: Make, begin: Begin) -> None:
    program, _ = await begin(make())
    client = await program.fork()
    with pytest.raises(SandboxFailed):
        await program.fork()
    await program.freeze()
    await program.thaw()
    assert await result(client, [1]) == [1]
    await client.close()
    assert program.state is State.CLOSED
    assert not list((lab.data / layout.RUN).rglob(program.id))
    with pytest.raises(ProcessLookupError):
        os.kill(client.pid, 0)


async def test_nobody_outside_can_reach_the_api(make: Make, begin: Begin) -> None:
    await instance(begin, make())
    with socket.socket() as outside:
        assert outside.connect_ex(("127.0.0.1", 9001)) != 0
