"""The story of a build: source → plan → layers → image; worker.py publishes what comes of it.

`Builder.make` is read top-down. It runs in a thread and touches the data folder alone: no Redis, no event loop. Each
step says what it did, how long it took and whether it was there already. A change of code alone finds its base and its
dependencies by their keys, so that it costs one unpacking, one compilation and one small layer.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder import deps, image, inventory, libraries, lock, pruning, registry, sbom, source
from builder.layers import LayerStore, StoredLayer
from builder.lock import Lock
from builder.part import WARNING, Part, Source, Step, Tell, size, timed
from builder.processes import Processes
from builder.resolved import Resolved
from builder.runtimes.image import recipe as others
from builder.runtimes.nodejs import recipe as nodejs
from builder.runtimes.nodejs.node import NO_NODES, Node
from builder.runtimes.provided import bootstrap
from builder.runtimes.python import base, check, interpreter, reach, rehearsal
from builder.runtimes.python.interpreter import Interpreter
from jiffy.contract import layout, limits
from jiffy.contract.errors import BuildFailed
from jiffy.contract.messages import BuildRequest, Layer, Process, Revision
from jiffy.contract.registry import Shelf
from jiffy.contract.spec import PROGRAMS, FunctionSpec, language, parse_function


@dataclass(frozen=True, slots=True)
class _Asked:
    """What makes one dependency layer another than the next."""

    wanted: tuple[str, ...]  # requirements
    needs: tuple[str, ...]  # libraries that the function's own files need
    whole: tuple[str, ...]  # packages that are not pruned
    locked: tuple[str, ...]  # what the requirements have to come to


Make = Callable[[Source, Tell], Part]


class Builder:
    """Makes revisions in one data folder. `make` may run in several threads at once."""

    def __init__(
        self,
        data: Path,
        interpreters: Mapping[str, Interpreter],
        environ: Mapping[str, str],
        processes: Processes,
        shelf: Shelf | None = None,
        nodes: Mapping[str, Node] = NO_NODES,
    ) -> None:
        """`shelf`: where hosts that don't share the data folder find layers. Raises InvalidRequest."""
        self._data = data
        self._shelf = shelf
        self._basic = shelf.basic(environ, registry.docker_config(environ)) if shelf else ""
        self._store = LayerStore(data)
        self._interpreters = interpreters
        self._nodes = nodes
        self._environ = environ
        self._processes = processes
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._resolved = Resolved(self._store)
        self._makers: dict[str, Make] = {
            "python": self._python,
            "nodejs": nodejs.Recipe(self._store, self._resolved, nodes, environ, processes).make,
            "provided": self._provided,
            "image": others.Recipe(self._store, environ).make,
        }
        self._store.sweep()

    @property
    def layers(self) -> LayerStore:
        """The layers of the data folder."""
        return self._store

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What functions may be written in here."""
        pythons = sorted(self._interpreters, key=lambda runtime: self._interpreters[runtime].version)
        return (*pythons, *self._nodes, "provided", "image")

    @property
    def layer_store(self) -> str:
        """The id of the layer store in the data folder."""
        return self._store.id

    def ship(self, layers: Iterable[Layer], tell: Tell) -> str:
        """Bring layers to where invokers look for them; the id of that layer store.

        Raises Unavailable or BuildFailed when a registry does not take them.
        """
        if self._shelf is None:
            return self._store.id
        with timed(tell, "push") as step:
            stored = [one for layer in layers if (one := self._store.get(layer.digest))]
            manifests = {one.layer.digest: image.write_layer(self._store, one) for one in stored}
            sent = registry.keep(self._data, self._shelf, manifests, self._basic)
            step.cached = not sent
            step.text = f"{sent} of {len(manifests)} layer{'s' * (len(manifests) != 1)} sent to {self._shelf.id}"
        return self._shelf.id

    def make(self, request: BuildRequest, archive: bytes, tell: Tell, locked: Lock | None = None) -> Revision:
        """The revision that `request` asks for, with number 0, its layers and image in the data folder.

        `locked`: what its requirements have to come to. Raises SpecError or BuildFailed with the one line that its
        author needs.
        """
        spec = parse_function(request.function, request.spec)
        with self._store.staging() as folder:
            code = folder / "code"
            making = self._makers[language(spec.runtime)]
            part = making(Source(request.tenant, spec, request.source, archive, folder, code, locked), tell)
            _check_size(part.code_bytes, part.layers[1:])
            self._warn_of_settings(spec, part.layers, tell)
            layers = tuple(part.layers)
            if part.process is None:
                with timed(tell, "code") as step:
                    layers = (*layers, self._store.put("code", code, layout.TASK_DIR))
                    step.bytes = layers[-1].layer.size_bytes
                    step.text = f"code layer, {size(step.bytes)}"
        with timed(tell, "image") as step:
            made = image.write(self._store, _image(spec, part), layers)
            step.bytes = sum(stored.blob_bytes for stored in layers)
            step.text = f"image of {len(layers)} layer{'s' * (len(layers) != 1)}, {size(step.bytes)} compressed"
        store = self.ship((stored.layer for stored in layers), tell)
        return _revision(request, spec, part, layers, made)._replace(store=store)

    def _python(self, of: Source, tell: Tell) -> Part:
        spec, locked = of.spec, of.locked
        python = interpreter.choose(spec.runtime, self._interpreters)
        with timed(tell, "unpack") as step:
            step.bytes = source.unpack(of.archive, of.digest, of.code)
            wanted = deps.requirements(of.code)
            if locked is not None:
                locked.check(wanted)
            imports = check.check(of.code, spec.handler, python, self._processes)
            step.text = f"{spec.handler} found in {size(step.bytes)} of source"
        layers = [self.base(python, tell)]
        lines = self._add_dependencies(of, wanted, python, layers, tell)
        self._warn(spec, imports, of.code, layers[1:], tell)
        if spec.slim:
            layers[0] = self._slim(of, python, layers, tell)
        command = f"/usr/local/bin/{python.runtime}", "-I", "-S", "-B", f"{layout.RUNTIME_DIR}/serve.py"
        return Part(python.runtime, layers, step.bytes, command, lines)

    def _provided(self, of: Source, tell: Tell) -> Part:
        """A program, and nothing of ours. A script brings the Python that its first line names."""
        if of.spec.slim:
            raise BuildFailed('slim = true is for Python; an image of runtime = "provided" holds nothing to leave out')
        with timed(tell, "unpack") as step:
            step.bytes = source.unpack(of.archive, of.digest, of.code)
            script = bootstrap.check(of.code)
            step.text = f"bootstrap found in {size(step.bytes)} of source"
        lines: Lock | None = None
        if script:
            python = interpreter.choose(script, self._interpreters)
            layers = [self.base(python, tell, files={})]
            lines = self._add_dependencies(of, deps.requirements(of.code), python, layers, tell)
        else:
            with timed(tell, "base") as based:
                stored, based.cached = bootstrap.base(self._store, of.code, network=of.spec.network)
                based.bytes = stored.layer.size_bytes
                based.text = f"base layer of the libraries that it needs, {size(based.bytes)}"
            layers = [stored]
        return Part(of.spec.runtime, layers, step.bytes, (f"{layout.TASK_DIR}/bootstrap",), lines, image.WITHOUT_AGENT)

    def _add_dependencies(
        self, of: Source, wanted: tuple[str, ...], python: Interpreter, layers: list[StoredLayer], tell: Tell
    ) -> Lock | None:
        """Append the dependency layer where there is need for one; what its requirements came to."""
        locked = of.locked
        needs = libraries.needs(libraries.native(of.code), layout.layer_tree(self._data, layers[0].layer.digest))
        if wanted or needs:
            asked = _Asked(wanted, needs, of.spec.whole, locked.lines if locked is not None else ())
            stored, lines = self._dependencies(asked, python, layers[0], of.folder, tell)
            layers.append(stored)
            return Lock(lock.digest(wanted), lines) if lines else None
        return locked

    def name(self, ref: str, made: str) -> None:
        """Give the image `made` the name of its revision."""
        image.name(self._data, ref, made)

    def base(self, python: Interpreter, tell: Tell, files: Mapping[str, bytes] | None = None) -> StoredLayer:
        """The base layer of `python`, made now if it is not there. `files`: what lies in it instead of our agent."""
        with timed(tell, "base") as step, self._locks[python.runtime]:
            stored, step.cached = base.ensure_for(self._store, python, self._processes, files)
            step.bytes = stored.layer.size_bytes
            step.text = f"{python.runtime} base layer, {size(step.bytes)}"
        return stored

    def _warn(
        self, spec: FunctionSpec, imports: tuple[str, ...], code: Path, deps_layer: list[StoredLayer], tell: Tell
    ) -> None:
        """The build goes on: the import may be one that never happens."""
        trees = [code, *(layout.layer_tree(self._data, stored.layer.digest) for stored in deps_layer)]
        module = spec.handler.partition(":")[0]
        nowhere = "neither in the standard library, nor your code, nor its dependencies"
        for name in check.missing(imports, trees):
            tell(Step(WARNING, f"{module} imports {name}, which is {nowhere}"))

    def _warn_of_settings(self, spec: FunctionSpec, layers: list[StoredLayer], tell: Tell) -> None:
        """Of those that have no effect."""
        for key in ("keep", "test_event"):
            if getattr(spec, key) and not spec.slim:
                tell(Step(WARNING, f"{key} has no effect without slim = true"))
        trees = [
            layout.layer_tree(self._data, one.layer.digest) for one in layers if spec.whole and one.layer.kind == "deps"
        ]
        there = {pruning.normal(package.name) for tree in trees for package in inventory.packages(tree)}
        for name in spec.whole:
            if pruning.normal(name) not in there:
                tell(Step(WARNING, f"whole names {name}, which is none of the packages that were installed"))

    def _slim(self, of: Source, python: Interpreter, layers: list[StoredLayer], tell: Tell) -> StoredLayer:
        """A base layer with what this function can reach alone. Functions that reach the same share one."""
        trees = {one.layer.kind: layout.layer_tree(self._data, one.layer.digest) for one in layers}
        seen = self._rehearse(of, python, trees, tell) if of.spec.test_event else ()
        with timed(tell, "base") as step:
            files = base.runtime_files()
            deps_trees = [trees["deps"]] if "deps" in trees else []
            keep = of.spec.keep
            only = reach.modules(of.code, deps_trees, of.spec.handler, keep, files, python, self._processes, seen)
            with self._locks[f"{python.runtime} {sorted(only)}"]:
                stored, step.cached = base.ensure_for(self._store, python, self._processes, files, only)
            step.bytes = stored.layer.size_bytes
            step.text = f"{python.runtime} slim base layer, {len(only)} modules, {size(step.bytes)}"
        return stored

    def _rehearse(self, of: Source, python: Interpreter, trees: Mapping[str, Path], tell: Tell) -> tuple[str, ...]:
        with timed(tell, "test") as step:
            learnt = rehearsal.rehearse(of.spec, python.runtime, {**trees, "code": of.code}, self._processes, of.folder)
            step.text = f"{of.spec.handler} run with {learnt.events} events, {len(learnt.names)} modules loaded"
        if learnt.trouble:
            hint = "the image holds what was loaded until then"
            tell(Step(WARNING, f"test_event = {json.dumps(of.spec.test_event)}: {learnt.trouble}; {hint}"))
        return learnt.names

    def _dependencies(
        self, asked: _Asked, python: Interpreter, under: StoredLayer, folder: Path, tell: Tell
    ) -> tuple[StoredLayer, tuple[str, ...]]:
        """The layer of these requirements, and what they came to. Functions that ask for the same share both."""
        key = deps.key(asked.locked or asked.wanted, python, asked.needs, asked.whole)

        def make(tree: Path) -> tuple[str, ...]:
            return deps.install(
                asked.wanted,
                tree,
                python=python,
                cache=self._data / layout.CACHE / "uv",
                base=layout.layer_tree(self._data, under.layer.digest),
                say=lambda line: tell(Step("deps", line)),
                environ=self._environ,
                processes=self._processes,
                own=libraries.native(folder / "code") if asked.needs else (),
                whole=asked.whole,
                locked=asked.locked,
            )

        with timed(tell, "deps") as step:
            stored, lines, step.cached = self._resolved.layer(key, folder, layout.DEPS_DIR, make)
            step.bytes = stored.layer.size_bytes
            step.text = f"dependency layer, {size(step.bytes)}"
        return stored, lines

    def sbom(self, revision: Revision) -> str:
        """The bill of materials of what `make` made."""
        trees = [layout.layer_tree(self._data, one.digest) for one in revision.layers if one.kind == "deps"]
        packages = [package for tree in trees for package in inventory.packages(tree)]
        return sbom.document(revision.function, revision.image, revision.runtime, packages)

    def lock_of(self, revision: Revision) -> Lock:
        """What a revision's requirements came to. Raises NotFound when its image is not in the data folder."""
        text = image.labels(self._data, revision.image).get(lock.LABEL, "")
        return lock.parse(text) if text else Lock(lock.digest(()), ())


def _check_size(code_bytes: int, layers: list[StoredLayer]) -> None:
    total = code_bytes + sum(stored.layer.size_bytes for stored in layers)
    if total > limits.SOURCE_UNPACKED_MAX_BYTES:
        most = size(limits.SOURCE_UNPACKED_MAX_BYTES)
        raise BuildFailed(f"code and dependencies have {size(total)} unpacked; at most {most} are allowed")


def _image(spec: FunctionSpec, part: Part) -> image.Image:
    settings = {
        "JIFFY_FUNCTION": spec.name,
        "JIFFY_HANDLER": spec.handler,
        "JIFFY_MEMORY_MB": str(spec.memory_mb),
        "JIFFY_TIMEOUT_MS": str(_timeout_ms(spec)),
        **({"JIFFY_STREAM": "1"} if spec.stream else {}),
    }
    labels = {"jiffy.runtime": part.runtime, "jiffy.handler": spec.handler}
    if spec.runtime in PROGRAMS:
        settings = {"_HANDLER": spec.handler.replace(":", "."), "LAMBDA_TASK_ROOT": layout.TASK_DIR}
        labels["jiffy.run"] = (
            "a client of the Lambda Runtime API at $AWS_LAMBDA_RUNTIME_API; it serves no HTTP by itself"
        )
    if part.process is not None:
        return _image_of_others(spec, part.process, labels)
    return image.Image(
        title=spec.name,
        description=spec.description,
        entrypoint=part.command,
        env={"PATH": "/usr/local/bin", "LANG": "C.UTF-8", **spec.env, **settings},
        base=part.base,
        labels=labels | ({lock.LABEL: str(part.locked)} if part.locked is not None and part.locked.lines else {}),
    )


def _image_of_others(spec: FunctionSpec, process: Process, labels: dict[str, str]) -> image.Image:
    env = process.env | dict(spec.env)
    if process.http_port:
        env |= {"PORT": str(process.http_port)}
        labels = {"jiffy.runtime": spec.runtime}
    return image.Image(
        title=spec.name,
        description=spec.description,
        entrypoint=process.args,
        env=env,
        base=f"the layers of {spec.image}",
        labels=labels,
        workdir=process.cwd,
        port=process.http_port,
    )


def _timeout_ms(spec: FunctionSpec) -> int:
    return round(spec.timeout_s * 1000)


def _revision(
    request: BuildRequest, spec: FunctionSpec, part: Part, layers: tuple[StoredLayer, ...], made: str
) -> Revision:
    declared = spec.to_dict()
    identity: list[object] = [part.runtime, declared, [stored.layer.digest for stored in layers]]
    if part.process is not None:
        identity.append(part.process)
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return Revision(
        tenant=request.tenant,
        function=spec.name,
        number=0,  # given when it is published
        digest=f"sha256:{hashlib.sha256(text.encode()).hexdigest()}",
        runtime=part.runtime,
        layers=tuple(stored.layer for stored in layers),
        handler=spec.handler,
        memory_mb=spec.memory_mb,
        timeout_ms=_timeout_ms(spec),
        max_instances=spec.max_instances,
        network=spec.network,
        env=dict(spec.env),
        routes=spec.every_route,
        created_ms=0,
        image=made,
        spec=declared,
        min_instances=spec.min_instances,
        public=spec.public,
        stream=spec.stream,
        calls_max=1 if spec.reuse == "never" else spec.max_requests,
        process=part.process,
    )
