"""Functions for the tests of real sandboxes: code in, a revision with layers on disk out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invoker.drivers.base import Driver, Wish
from invoker.sandbox import Exit, Instance, Reply, Sandbox
from jiffy.contract import layout
from jiffy.contract.messages import Layer, Revision


@dataclass
class Lab:
    """One driver over one data folder that holds a base layer."""

    driver: Driver
    data: Path
    base: Layer
    tenant: str = ""  # whose the stems are: a nursery's then, where there may be one
    sandboxes: list[Sandbox] = field(default_factory=list)

    def layer(self, kind: str, files: dict[str, str]) -> Layer:
        digest = "sha256:" + hashlib.sha256(json.dumps([kind, files]).encode()).hexdigest()
        tree = layout.layer_tree(self.data, digest)
        for name, text in files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o644)
        for folder in (tree.parent, tree):
            folder.chmod(0o755)
        return Layer(kind, digest, 1)

    def revision(self, code: str | dict[str, str], **changes: Any) -> Revision:
        files = {"app.py": code} if isinstance(code, str) else code
        plain = Revision(
            tenant="acme",
            function="hello",
            number=7,
            digest="sha256:" + "0" * 64,
            runtime="python3.11",
            layers=(self.base, self.layer("code", files)),
            handler="app:handler",
            memory_mb=128,
            timeout_ms=3000,
            max_instances=10,
            network=False,
            env={"GREETING": "hello"},
            routes=(),
            created_ms=0,
        )
        return plain._replace(**changes)

    async def stem(self) -> Sandbox:
        sandbox = await Sandbox.start(self.driver, self.data, self.base_runtime, self.base, Wish(tenant=self.tenant))
        self.sandboxes.append(sandbox)
        return sandbox

    @property
    def base_runtime(self) -> str:
        return "python3.11" if self.has("python3.11") else next(iter(self.interpreters()))

    def interpreters(self) -> list[str]:
        folder = layout.layer_tree(self.data, self.base.digest) / "usr/local/bin"
        return sorted(p.name for p in folder.iterdir() if p.name.startswith("python3."))

    def has(self, name: str) -> bool:
        return name in self.interpreters()

    async def sandbox(self, code: str | dict[str, str], **changes: Any) -> Sandbox:
        sandbox = await self.stem()
        loaded = await sandbox.specialise(self.revision(code, **changes))
        assert loaded.error is None, loaded
        return sandbox

    async def instance(self, code: str | dict[str, str], **changes: Any) -> Instance:
        return await (await self.sandbox(code, **changes)).fork()

    async def close(self) -> None:
        for sandbox in self.sandboxes:
            await sandbox.close()
        self.sandboxes.clear()


async def call(instance: Instance, event: object = None, timeout_s: float = 10.0) -> Reply | Exit:
    return await instance.call({"id": "0190-call"}, json.dumps(event).encode(), timeout_s)


async def result(instance: Instance, event: object = None) -> Any:
    """What the handler returned."""
    reply = await call(instance, event)
    assert isinstance(reply, Reply), reply
    assert reply.ok, reply
    return json.loads(reply.payload)


async def error(instance: Instance, event: object = None) -> dict[str, Any]:
    """The error JSON that it answered with."""
    reply = await call(instance, event)
    assert isinstance(reply, Reply), reply
    assert not reply.ok, reply
    found: dict[str, Any] = json.loads(reply.payload)
    return found


async def ended(instance: Instance, event: object = None, timeout_s: float = 10.0) -> Exit:
    """How it ended instead of answering."""
    outcome = await call(instance, event, timeout_s)
    assert isinstance(outcome, Exit), outcome
    return outcome
