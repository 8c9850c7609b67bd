"""How SQS and S3 are spoken to, Amazon's or a compatible server's, through aiobotocore (the extra jiffy[aws]).

The keys in the address are the only ones that are used: what the gateway itself may do at Amazon (its environment, its
machine's role) is not lent to whoever deploys.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from gateway.triggers.sources.base import SourceError
from jiffy.contract.queues import Address

CONNECT_MAX_S = 3.0
REPLY_MAX_S = 10.0
REGION = "us-east-1"  # what compatible servers take where nobody says


def client(service: str, address: Address) -> AbstractAsyncContextManager[Any]:
    """A client of "sqs" or "s3": Amazon's where the address names no host."""
    where = urlsplit(address.server)
    own = where.scheme in ("http", "https")
    config = AioConfig(
        connect_timeout=CONNECT_MAX_S,
        read_timeout=REPLY_MAX_S,
        retries={"mode": "standard", "total_max_attempts": 2},
        ignore_configured_endpoint_urls=True,
        s3={"addressing_style": "path" if own else "auto"},
    )
    found: AbstractAsyncContextManager[Any] = get_session().create_client(
        service,
        region_name=address.region or REGION,
        endpoint_url=f"{where.scheme}://{where.netloc.rpartition('@')[2]}" if own else None,
        aws_access_key_id=unquote(where.username or ""),
        aws_secret_access_key=unquote(where.password or ""),
        config=config,
    )
    return found


@contextmanager
def translated() -> Iterator[None]:
    try:
        yield
    except ClientError as exc:
        raise SourceError(refusal(exc)) from exc
    except (BotoCoreError, OSError, TimeoutError, ValueError) as exc:
        raise SourceError(str(exc)[:300] or type(exc).__name__) from exc


def refusal(exc: ClientError) -> str:
    """What the server said."""
    error = exc.response.get("Error", {})
    return f"{error.get('Code', 'refused')}: {error.get('Message') or exc}"[:300]
