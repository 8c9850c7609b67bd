"""The HTTP API as Python calls. Errors are those of `jiffy.contract.errors`, whichever side found them.

    with Client() as jiffy:
        for event in jiffy.deploy("examples/hello"): ...
        jiffy.invoke("hello", {"name": "Ada"}).result

What goes into an upload: package.py. The command line on top of it: cli/.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from .contract import limits, spec
from .contract.errors import CallerError, InvalidRequest, JiffyError, PlatformError, SpecError, Unavailable
from .invocation import Invocation, Streamed
from .package import Package, pack

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_S, READ_S = 5.0, 60.0
CALL_S = limits.TIMEOUT_MAX_S + limits.WAIT_MAX_S + 10.0  # the platform answers sooner; this guards against none at all
RESUME_MAX, RESUME_S = 40, 0.25  # while a gateway is started again
LAST_EVENTS = ("done", "failed")
Params = Mapping[str, str | int | float | bool | None]


class Client:
    """One platform. `url` and `api_key` default to JIFFY_URL and JIFFY_API_KEY."""

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        self.url = (url or os.environ.get("JIFFY_URL") or DEFAULT_URL).rstrip("/")
        key = api_key or os.environ.get("JIFFY_API_KEY")
        if not self.url.startswith(("http://", "https://")):
            raise InvalidRequest(f"{self.url!r} is not the URL of a platform, such as {DEFAULT_URL}; see JIFFY_URL")
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers={"authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
                trust_env=False,  # a proxy for the internet is none for the platform
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as exc:
            raise InvalidRequest(f"JIFFY_URL or JIFFY_API_KEY can't be used: {exc}") from exc

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # --- functions ------------------------------------------------------------------------------------------------

    def deploy(
        self, folder: str | Path, only: tuple[str, ...] = (), *, locked: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Deploys the folder's functions; yields build events, each with its "function", up to "done" or "failed".

        `locked`: with the very packages of the revisions in service. A function whose build fails does not keep the
        others from being deployed: look at the events. Raises SpecError before anything is sent when jiffy.toml is
        wrong.
        """
        specs = declared(Path(folder), only)
        digest = self.upload(pack(Path(folder)))
        builds: list[tuple[str, Iterable[dict[str, Any]]]] = []
        for one in specs:
            try:
                builds.append((one.name, self.build(self.begin(one, digest, locked=locked))))
            except CallerError as exc:
                builds.append((one.name, [{"kind": "failed", "text": exc.message, "error_code": exc.code}]))
        for name, events in builds:
            for event in events:
                yield {"function": name} | event

    def upload(self, package: Package) -> str:
        """Sends a packed folder unless the platform has it; returns its digest."""
        path = f"/v1/sources/{package.digest.removeprefix('sha256:')}"
        kind = {"content-type": "application/gzip"}
        status = self._send("HEAD", path, may_be=(401, 403, 404)).status_code
        if status in (401, 403):  # an answer to HEAD can't say why; one to this does
            self._send("PUT", path, headers=kind)
        elif status == 404:
            self._send("PUT", path, content=package.data, headers=kind)
        return package.digest

    def begin(self, function: spec.FunctionSpec, source: str, *, locked: bool = False) -> str:
        """Asks for a new revision from an uploaded source; returns the build's id."""
        asked = {"spec": function.to_dict(), "source": source, "locked": locked}
        answer = self._send("PUT", f"/v1/functions/{function.name}", json=asked)
        return str(answer.json()["build"])

    def build(self, build_id: str) -> Iterator[dict[str, Any]]:
        """The events of a build, as they happen, to the last one; a connection that breaks is taken up again."""
        after, broken = "0", 0
        while True:
            try:
                for event in self.stream(f"/v1/builds/{build_id}/events", {"after": after}):
                    after, broken = event.get("id", after), 0
                    yield event
                    if event["kind"] in LAST_EVENTS:
                        return
            except Unavailable:
                if broken >= RESUME_MAX:
                    raise
            if broken >= RESUME_MAX:
                raise Unavailable(f"{self.url} tells nothing more of the build")
            broken += 1
            time.sleep(RESUME_S)

    def functions(self) -> list[dict[str, Any]]:
        return list(self.get_json("/v1/functions")["functions"])

    def function(self, name: str) -> dict[str, Any]:
        return self._object("GET", f"/v1/functions/{spec.check_name(name)}")

    def sbom(self, name: str, revision: int | None = None) -> dict[str, Any]:
        """The bill of materials of a revision (None: the live one): a CycloneDX document."""
        return self._object("GET", f"/v1/functions/{spec.check_name(name)}/sbom", params={"revision": revision})

    def rollback(self, name: str, revision: int | None = None) -> dict[str, Any]:
        """Puts a revision (None: the one before) in service; returns the "function", its "revision", and "before"."""
        body = {} if revision is None else {"revision": revision}
        return self._object("POST", f"/v1/functions/{spec.check_name(name)}/live", json=body)

    def remove(self, name: str) -> None:
        self._send("DELETE", f"/v1/functions/{spec.check_name(name)}")

    def drain(self, invoker: str, on: bool = True) -> None:
        """Have a host take no further calls, or (`on` False) take them again."""
        self._send("POST" if on else "DELETE", f"/v1/invokers/{quote(invoker, safe='')}/drain")

    def status(self) -> dict[str, Any]:
        return self.get_json("/v1/status")

    # --- calls ----------------------------------------------------------------------------------------------------

    def invoke(
        self, name: str, event: Any = None, *, raw: bytes | None = None, idempotency_key: str | None = None
    ) -> Invocation:
        """Calls a function and waits. A function that fails is an outcome; JiffyError says that the platform failed.

        Calls with the same `idempotency_key` within a day are one: later ones get the first one's answer.
        """
        path = _invocations(name)
        answer = self._send("POST", path, **_event(event, raw, idempotency_key))
        return Invocation.told(name, answer.headers, _document(answer))

    @contextmanager
    def invoke_stream(self, name: str, event: Any = None, *, raw: bytes | None = None) -> Iterator[Streamed]:
        """Calls a function that streams (`stream = true`), for a `with` statement: what it yields, as it comes.

        with client.invoke_stream("chat", {"text": "hi"}) as answer:
            for piece in answer: ...
        """
        path = _invocations(name)
        try:
            with self._http.stream("POST", path, params={"mode": "stream"}, **_event(event, raw, None)) as answer:
                if answer.headers.get("content-type") == "application/x-ndjson":
                    yield Streamed(name, answer.headers, _split(answer))
                    return
                answer.read()
                if answer.is_error:
                    raise _error(answer)
                yield Streamed.whole(Invocation.told(name, answer.headers, _document(answer)))
        except httpx.TransportError as exc:
            raise self._unreachable(exc) from exc

    def invoke_async(
        self,
        name: str,
        event: Any = None,
        *,
        raw: bytes | None = None,
        delay_s: float | None = None,
        retries: int | None = None,
        max_age_s: float | None = None,
        order_key: str | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Queues a call, to begin after `delay_s`; returns its id. None: as the function's jiffy.toml says.

        Calls of one function with the same `order_key` run one at a time, in the order in which they were accepted.
        """
        path = _invocations(name)
        terms = {"delay": delay_s, "retries": retries, "max_age": max_age_s, "order_key": order_key}
        params = {"mode": "async"} | terms
        return str(self._send("POST", path, params=params, **_event(event, raw, idempotency_key)).json()["invocation"])

    def cancel(self, invocation_id: str) -> dict[str, Any]:
        """Takes back a queued call; raises Conflict when it runs or has ended."""
        return self._object("DELETE", f"/v1/invocations/{invocation_id}")

    def replay(self, invocation_id: str | None = None, function: str | None = None) -> int:
        """Tries dead calls again: one, a function's, or all; how many."""
        path = f"/v1/dlq/{invocation_id}/replay" if invocation_id else "/v1/dlq/replay"
        return int(self._object("POST", path, params={"function": function})["replayed"])

    def purge(self, invocation_id: str | None = None, function: str | None = None) -> int:
        """Throws dead letters away: one, a function's, or all; how many."""
        if invocation_id:
            self._send("DELETE", f"/v1/dlq/{invocation_id}")
            return 1
        return int(self._object("DELETE", "/v1/dlq", params={"function": function})["purged"])

    def invocation(self, invocation_id: str) -> dict[str, Any]:
        """State, outcome and result of a call."""
        return self._object("GET", f"/v1/invocations/{invocation_id}")

    def logs(self, name: str, **params: str | int | bool | None) -> Iterator[str]:
        """Lines of a function's log: START, what it printed, END, REPORT. With follow=True, until you stop."""
        path = f"/v1/functions/{spec.check_name(name)}/logs"
        return self._lines(path, {"format": "text", **params})

    def usage(self, **params: str | int | None) -> dict[str, Any]:
        """What calls cost: docs/billing.md."""
        return self.get_json("/v1/usage", params)

    def usage_csv(self, **params: str | int | None) -> Iterator[str]:
        """The same rows as lines of CSV, a header first; all of them unless there is a limit."""
        return (line.rstrip("\r") for line in self._lines("/v1/usage", {**params, "format": "csv"}))

    def usage_lines(self, **params: str | int | None) -> Iterator[str]:
        """The same rows as lines of JSON."""
        return self._lines("/v1/usage", {**params, "format": "jsonl"})

    def usage_rows(self, **params: str | int | None) -> Iterator[dict[str, Any]]:
        """The same rows as objects, as they come."""
        return self.stream("/v1/usage", {**params, "format": "jsonl"})

    # --- triggers -------------------------------------------------------------------------------------------------

    def triggers(self) -> list[dict[str, Any]]:
        """All triggers of all functions: docs/events.md."""
        return list(self.get_json("/v1/triggers")["triggers"])

    def trigger(self, function: str, name: str, action: str = "") -> dict[str, Any]:
        """One trigger; with the action "pause" or "resume", after it."""
        method, path = ("POST", f"/{action}") if action else ("GET", "")
        return self._object(method, _trigger_path(function, name) + path)

    def fire(self, function: str, name: str, raw: bytes = b"") -> str:
        """Calls a trigger's function now, with the event `raw` or the trigger's usual one; the invocation's id."""
        return str(self._object("POST", f"{_trigger_path(function, name)}/fire", content=raw)["invocation"])

    def trigger_log(self, function: str, name: str, limit: int) -> list[dict[str, Any]]:
        """What a trigger did last, oldest first: at_ms, kind, invocation, text."""
        return list(self.get_json(f"{_trigger_path(function, name)}/logs", {"limit": limit})["entries"])

    # --- HTTP -----------------------------------------------------------------------------------------------------

    def get_json(self, path: str, params: Params | None = None) -> dict[str, Any]:
        return self._object("GET", path, params=params)

    def post_json(self, path: str, content: bytes = b"", content_type: str = "application/json") -> dict[str, Any]:
        return self._object("POST", path, content=content, headers={"content-type": content_type})

    def put_json(self, path: str, content: bytes) -> dict[str, Any]:
        return self._object("PUT", path, content=content, headers={"content-type": "application/json"})

    def delete(self, path: str) -> None:
        self._send("DELETE", path)

    def text(self, path: str, params: Params | None = None) -> str:
        return self._send("GET", path, params=params).text

    def stream(self, path: str, params: Params | None = None) -> Iterator[dict[str, Any]]:
        """The objects of a newline-delimited JSON answer, as they come."""
        for line in self._lines(path, params):
            if line:
                yield json.loads(line)

    def _lines(self, path: str, params: Params | None = None) -> Iterator[str]:
        try:
            with self._http.stream("GET", path, params=_given(params), timeout=self._patient()) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                yield from _split(answer)
        except httpx.TransportError as exc:
            raise self._unreachable(exc) from exc

    def _object(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        document = _document(self._send(method, path, **request))
        if not isinstance(document, dict):
            raise PlatformError(f"{self.url}{path} did not answer with a JSON object; is it a Jiffy platform?")
        return document

    def _send(self, method: str, path: str, *, may_be: tuple[int, ...] = (), **request: Any) -> httpx.Response:
        request["params"] = _given(request.get("params"))
        try:
            answer = self._http.request(method, path, **request)
        except httpx.TransportError as exc:
            raise self._unreachable(exc) from exc
        if answer.is_error and answer.status_code not in may_be:
            raise _error(answer)
        return answer

    def _unreachable(self, exc: httpx.TransportError) -> Unavailable:
        if isinstance(exc, httpx.ConnectError) and "SSL" in str(exc):
            plain = "; it may speak plain HTTP: set JIFFY_URL to http://…" if "CERTIFICATE" not in str(exc) else ""
            return Unavailable(f"no TLS connection to {self.url}: {exc}{plain}")
        if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol):
            return Unavailable(
                f"no platform answers at {self.url}: start one with `jiffy up`, or set JIFFY_URL to where it is"
            )
        return Unavailable(f"the connection to {self.url} broke: {exc or type(exc).__name__}")

    def _patient(self) -> httpx.Timeout:
        return httpx.Timeout(None, connect=CONNECT_S)


def declared(folder: Path, only: tuple[str, ...] = ()) -> tuple[spec.FunctionSpec, ...]:
    """The functions of the folder's jiffy.toml, `only` those named where given. Raises SpecError."""
    path = folder / "jiffy.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise SpecError(f"{folder} has no jiffy.toml; `jiffy init {folder}` writes one") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise SpecError(f"can't read {path}: {exc}") from exc
    specs = spec.parse_toml(text, str(path))
    names = [one.name for one in specs]
    for name in only:
        if name not in names:
            raise SpecError(f"{path} declares no function {name!r}; it declares {', '.join(names)}")
    return tuple(one for one in specs if not only or one.name in only)


def _invocations(name: str) -> str:
    """Of a function, NAME:ALIAS or NAME:REVISION."""
    function, colon, which = name.partition(":")
    if colon and not which.isdecimal():
        spec.check_name(which, "alias")
    return f"/v1/functions/{spec.check_name(function)}{colon}{which}/invocations"


def _trigger_path(function: str, name: str) -> str:
    return f"/v1/triggers/{spec.check_name(function)}/{spec.check_name(name, 'trigger')}"


def _event(event: Any, raw: bytes | None, key: str | None) -> dict[str, Any]:
    content = raw if raw is not None else json.dumps({} if event is None else event).encode()
    timeout = httpx.Timeout(CALL_S, connect=CONNECT_S)
    headers = {"content-type": "application/json"} | ({"idempotency-key": key} if key is not None else {})
    return {"content": content, "headers": headers, "timeout": timeout}


def _split(answer: httpx.Response) -> Iterator[str]:
    """The lines of an answer, as they come: not iter_lines, which also breaks at U+2028 inside a JSON text."""
    left = b""
    for chunk in answer.iter_bytes():
        *lines, left = (left + chunk).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    if left:
        yield left.decode(errors="replace")


def _given(params: Params | None) -> dict[str, str]:
    values = {name: value for name, value in (params or {}).items() if value is not None}
    return {n: ("true" if v else "false") if isinstance(v, bool) else str(v) for n, v in values.items()}


def _document(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as exc:
        raise PlatformError(f"{answer.url} answered what is not JSON; is it a Jiffy platform?") from exc


def _error(answer: httpx.Response) -> JiffyError:
    """The error that the platform's answer carries, as the class of its code."""
    try:
        error = answer.json()["error"]
        code, message, retry_after_s = error["code"], error["message"], error.get("retry_after_s")
    except (ValueError, TypeError, KeyError, AttributeError):
        text = answer.text.strip() if answer.request.method != "HEAD" else ""
        return PlatformError(f"{answer.url} answered {answer.status_code}{': ' + text[:200] if text else ''}")
    return _kinds(JiffyError).get(code, PlatformError)(message, retry_after_s=retry_after_s)


def _kinds(base: type[JiffyError]) -> dict[str, type[JiffyError]]:
    found = {base.code: base}
    for kind in base.__subclasses__():
        found |= _kinds(kind)
    return found
