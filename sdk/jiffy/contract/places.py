"""``file:///srv/incoming``: where a ``files`` trigger looks for files. Pure; who looks: gateway/triggers/sources.

file:///FOLDER                                                                on the gateways' hosts
s3://                           KEY:SECRET@REGION/BUCKET[/PREFIX]             Amazon's
s3+https:// s3+http://          KEY:SECRET@host[:port]/BUCKET[/PREFIX][?region=REGION]
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from . import queues
from .queues import Address

EXTRAS = dict.fromkeys(("s3", "s3+https", "s3+http"), "aws")  # scheme → the extra that brings its client
SCHEMES = ("file", *EXTRAS)
_EXAMPLE = '"file:///srv/incoming" or "s3://KEY:SECRET@eu-west-1/bucket/prefix/"'
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


def parse(text: Any) -> Address:
    """`space` is the folder or the bucket, `name` the prefix of the keys. Raises ValueError with what is allowed."""
    parts = queues.split(text, SCHEMES, _EXAMPLE)
    if parts.scheme == "file":
        folder = unquote(parts.path)
        if parts.netloc or parts.query or not folder.startswith("/") or ".." in folder.split("/"):
            raise ValueError("file:///FOLDER, with three slashes and no ..")
        return Address("file", "", str(PurePosixPath(folder)).replace("//", "/"), "")
    own = "+" in parts.scheme
    place = "host[:port]/BUCKET[/PREFIX][?region=REGION]" if own else "REGION/BUCKET[/PREFIX]"
    form = f"{parts.scheme}://KEY:SECRET@{place}"
    bucket, _, prefix = (unquote(part) for part in parts.path[1:].partition("/"))
    if not parts.hostname or not _BUCKET.fullmatch(bucket):
        raise ValueError(form)
    plain = parts.scheme.partition("+")[2] or parts.scheme
    return Address(parts.scheme, f"{plain}://{parts.netloc}", bucket, prefix, queues.region_of(parts, form))


def check(text: Any) -> str:
    parse(text)
    return str(text)
