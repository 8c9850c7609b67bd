"""Names in an OCI registry, and what opens it. Pure: the builder pushes (builder/registry.py), invokers pull
(invoker/registry.py).

A platform that is given a registry keeps each layer in its one repository of layers, as an image of that layer alone
whose tag is the layer's digest. So an invoker finds a layer by what the revision says of it, and what it gets is held
against the same digest: a registry that lies, or somebody on the way to it, can keep layers back and change none.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from .errors import BuildFailed, InvalidRequest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MANIFEST_MAX_BYTES = 4 * 1024 * 1024  # what registries agree to take
AUTH = "JIFFY_REGISTRY_AUTH"  # environment variable with user:password; before Docker's configuration file
_HOST = r"(?P<host>[A-Za-z0-9.-]+(?::\d{1,5})?|\[[0-9a-fA-F:]+\](?::\d{1,5})?)"
_NAME = r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
_REFERENCE = re.compile(rf"{_HOST}/(?P<name>{_NAME})(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}}))?")
_REGISTRY = re.compile(rf"(?:(?P<scheme>https?)://)?{_HOST}(?:/(?P<prefix>{_NAME}))?/?")
_LOOPBACK = re.compile(r"(?:localhost|127\.[\d.]+|\[::1\])(?::\d+)?")

_NUMBER = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)")  # resolvers take 127.1 and 0x7f000001 for addresses


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image goes: ``registry.example:5000/team/hello:1``."""

    host: str
    name: str
    tag: str
    plain: bool = False  # HTTP, though it is not on this machine

    @classmethod
    def parse(cls, text: str) -> Reference:
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise InvalidRequest(f"{text!r} names no place in a registry; write HOST[:PORT]/NAME[:TAG], in lower case")
        return cls(match["host"], match["name"], match["tag"] or "latest")

    @property
    def scheme(self) -> str:
        """Plain HTTP on this machine alone, as Docker does, unless it was asked for."""
        return "http" if self.plain or _LOOPBACK.fullmatch(self.host) else "https"


@dataclass(frozen=True, slots=True)
class Shelf:
    """The repository where a platform keeps its layers. Every host names it alike: `id` is compared."""

    host: str
    name: str
    plain: bool

    @classmethod
    def parse(cls, text: str) -> Shelf:
        """``[http://]HOST[:PORT][/PREFIX]``. Raises InvalidRequest."""
        match = _REGISTRY.fullmatch(text)
        if match is None:
            hint = f"; user and password go into {AUTH} or `docker login`" if "@" in text else ""
            shown = text.rpartition("@")[2]
            raise InvalidRequest(f"--registry …{shown!r}: write [http://]HOST[:PORT][/PREFIX], in lower case{hint}")
        prefix = f"{match['prefix']}/" if match["prefix"] else ""
        return cls(match["host"], f"{prefix}layers", match["scheme"] == "http")

    @property
    def id(self) -> str:
        """What revisions and heartbeats call it."""
        return f"{self.host}/{self.name}"

    def of(self, digest: str) -> Reference:
        """Where the layer with this digest ("sha256:HEX") lies."""
        return Reference(self.host, self.name, digest.removeprefix("sha256:"), self.plain)

    def basic(self, environ: Mapping[str, str], docker_config: str) -> str:
        """``user:password`` in base64, or "". Raises InvalidRequest when it would travel where others can read it."""
        given = environ.get(AUTH, "")
        found = base64.b64encode(given.encode()).decode() if given else credentials(docker_config, self.host)
        if found and not safe(f"{self.of('').scheme}://{self.host}"):
            raise InvalidRequest(f"--registry http://{self.host}: credentials go by https only")
        return found


def credentials(docker_config: str, host: str) -> str:
    """``user:password`` in base64, as `docker login` keeps it in its configuration's text; "" when there is none."""
    try:
        return str(json.loads(docker_config)["auths"][host].get("auth", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""


def safe(url: str) -> bool:
    """May something be sent there that others must not read?"""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and bool(_LOOPBACK.fullmatch(parts.netloc)))


def public(scheme: str, host: str) -> bool:
    """May a stranger send us there? By HTTPS, so that it is who it says, and to no address of this host's own or of its
    link, where clouds keep credentials. `host` as it will be connected to, without brackets.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.lower().removesuffix(".")
        own = name == "localhost" or name.endswith(".localhost") or _NUMBER.fullmatch(name)
        return scheme == "https" and bool(name) and not own
    address = getattr(address, "ipv4_mapped", None) or address
    return scheme == "https" and not (address.is_loopback or address.is_link_local or address.is_unspecified)


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry wants before it answers: its ``WWW-Authenticate``."""

    kind: str  # "basic" | "bearer" | another, in lower case
    asked: Mapping[str, str]

    @classmethod
    def parse(cls, header: str) -> Challenge:
        kind, _, rest = header.partition(" ")
        return cls(kind.lower(), dict(re.findall(r'(\w+)="([^"]*)"', rest)))

    def token_url(self, scope: str) -> str:
        """Where credentials are changed for a token. Raises BuildFailed: others could read them on their way."""
        realm = self.asked.get("realm", "")
        try:
            good = safe(realm)
        except ValueError:
            good = False
        if not good:
            raise BuildFailed(f"the registry asks for a token from {realm!r:.200}; credentials go by https only")
        query = urlencode({"service": self.asked.get("service", ""), "scope": scope})
        return f"{realm}{'&' if '?' in realm else '?'}{query}"


def token(answer: object) -> str:
    """The token in what `token_url` answers, read as JSON; "" when there is none."""
    if not isinstance(answer, dict):
        return ""
    return str(answer.get("token") or answer.get("access_token") or "")
