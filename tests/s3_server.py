"""A real S3 server in a child process (moto over HTTP), which can be told to be busy, slow or to break off.

python -m tests.s3_server         prints the port it found, and serves until it is ended
"""

import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from shards.stores import remote

_CONTROL = "/sonograph-faults"
_BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@dataclass(frozen=True)
class Fault:
    """What becomes of the next `count` requests whose method and path contain these words."""

    kind: str
    """`busy` 503, `denied` 403, `slow` is late, `cut` breaks off its answer, `lossy` keeps half of what it gets."""
    count: int = 1
    method: str = ""
    path: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class S3:
    """The running server."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": "an-access-key",
            "AWS_SECRET_ACCESS_KEY": "S3CRET-of-the-store",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def fail(self, *faults: Fault) -> None:
        self._tell([asdict(fault) for fault in faults])

    def log(self) -> list[str]:
        """`METHOD path range` of every request since the last call."""
        return self._tell(None)

    def client(self) -> Any:
        environment = self.environment
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_DEFAULT_REGION"],
        )

    def objects(self, bucket: str) -> dict[str, bytes]:
        """Every byte of a bucket, by key."""
        client = self.client()
        listed = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        keys = [found["Key"] for page in listed for found in page.get("Contents", [])]
        return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}

    def _tell(self, content: object) -> Any:
        request = urllib.request.Request(self.endpoint + _CONTROL, data=json.dumps(content).encode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())


@contextmanager
def s3_server() -> Iterator[S3]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.s3_server"],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
    )
    try:
        assert process.stdout is not None
        yield S3(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.communicate()


@contextmanager
def s3_in_environment(bucket: str) -> Iterator[S3]:
    """A server with one bucket, its address and keys in the environment, as users have them."""
    with s3_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        remote._client.cache_clear()
        server.client().create_bucket(Bucket=bucket)
        yield server
        remote._client.cache_clear()


class _Faulty:
    """The application behind it, less what it was told to do wrong."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.faults: list[Fault] = []
        self.seen: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == _CONTROL:
            return self._control(environ, start_response)
        self.seen.append(" ".join(filter(None, (method, path, environ.get("HTTP_RANGE")))))
        fault = self._next(method, path)
        if fault is None or fault.kind == "slow":
            time.sleep(fault.seconds if fault else 0)
            return self.application(environ, start_response)
        if fault.kind == "lossy":
            half = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))[: int(environ["CONTENT_LENGTH"]) // 2]
            given = {"wsgi.input": io.BytesIO(half), "CONTENT_LENGTH": str(len(half))}
            return self.application({**environ, **given}, start_response)
        if fault.kind == "cut":
            whole = b"".join(self.application(environ, start_response))
            return [whole[: len(whole) // 2]]
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, body = ("503 Slow Down", _BUSY) if fault.kind == "busy" else ("403 Forbidden", _DENIED)
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body] if method != "HEAD" else []

    def _next(self, method: str, path: str) -> Fault | None:
        for place, fault in enumerate(self.faults):
            if fault.count > 0 and fault.method in method and fault.path in path:
                self.faults[place] = replace(fault, count=fault.count - 1)
                return fault
        return None

    def _control(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        told = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        answer, self.seen = ([], self.seen) if told is not None else (self.seen, [])
        if told is not None:
            self.faults = [Fault(**fault) for fault in told]
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]


def _serve() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, _Faulty(application), threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve()
