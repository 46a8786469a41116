"""What the error of a store means: whether asking again may help, and what to tell who asked."""

import os
from collections.abc import Iterator

_LIBRARIES = {"aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "s3fs"}  # whose errors are no bugs of ours
_PASSING_STATUS = {408, 409, 425, 429}
_PASSING_CODES = {"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"}  # of status 400
_BROKEN = {"ConnectionError", "HTTPClientError", "IncompleteReadError", "ResponseStreamingError"}  # of botocore
_MALFORMED = "Invalid endpoint"  # how botocore's error about an address begins, a bare ValueError
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def what_happened(error: Exception) -> Exception:
    """The error itself; of a file that is said to be missing where no server was met: why none was met."""
    broken = (one for one in _chain(error) if isinstance(one, Exception) and "ClientConnectionError" in _kinds(one))
    return next(broken, error)


def is_of_the_store(error: BaseException) -> bool:
    """Whether the store, the way to it or its settings are the cause, rather than a bug here."""
    return isinstance(error, OSError) or _is_of(error, _LIBRARIES) or str(error).startswith(_MALFORMED)


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed later: 5xx, too many requests, time-outs, broken connections."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    if isinstance(error, TimeoutError) or _code(error) in _PASSING_CODES:
        return True
    if (status := status_of(error)) is not None:
        return (status >= 500 and status != 501) or status in _PASSING_STATUS
    if _is_of(error, {"botocore"}):  # all else that has no status is about settings: credentials, region, profile
        return bool(_BROKEN & _kinds(error))
    return not str(error).startswith(_MALFORMED)


def is_an_answer(error: BaseException) -> bool:
    """Whether the store itself said so; else nothing is known to listen at its address."""
    return status_of(error) is not None or isinstance(error, FileNotFoundError)


def is_late(error: BaseException) -> bool:
    """Whether much time has gone already."""
    return any("Timeout" in kind for kind in _kinds(error))


def is_no_bucket(error: BaseException) -> bool:
    return _code(error) == "NoSuchBucket"


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error carries somewhere."""
    for one in _chain(error):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
        name = "code" if type(one).__name__ == "HttpError" else "status"  # aiohttp gives a broken body code 400 as well
        if isinstance(value := getattr(one, name, None), int):
            return value
    return None


def told(error: BaseException) -> str:
    """An error in a few words: its own first line and the HTTP status."""
    text = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
    status = status_of(error)
    return f"{text[:200]} (HTTP {status})" if status else text[:200]


def unreachable(place: str, error: BaseException, tried: int, seconds: float) -> str:
    return (
        f"{place} could not be reached in {tried} attempts over {seconds:.0f} s: {told(error)}. Nothing half-written "
        "is used. Look whether the store is up and the network is there, then repeat the same command: it continues "
        "where it stopped."
    )


def silent(place: str, scheme: str, error: BaseException) -> str:
    return (
        f"{place}: no store answers: {told(error)}. Nothing was read or written. Check the name and the network"
        f"{_address(scheme)}, then repeat the same command."
    )


def refused(place: str, scheme: str, error: BaseException) -> str:
    known = {
        "s3": "AWS_PROFILE, AWS_ACCESS_KEY_ID, ~/.aws or the machine's role; AWS_ENDPOINT_URL_S3 for a store of "
        "another maker; FSSPEC_S3_ANON=true for a public bucket",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS, gcloud auth or the machine's role",
    }
    means = known.get(scheme, "the server's own rules")
    return (
        f"{place}: the store refuses this: {told(error)}. Nothing was changed, and asking again would not help. Check "
        f"the name, and with which credentials it is asked for ({means})."
    )


def misdirected(place: str, scheme: str, error: BaseException) -> str:
    return (
        f"{place}: the store's address is none: {told(error)}. Nothing was read or written. Write it with its "
        f"protocol, as in http://127.0.0.1:9000{_address(scheme)}."
    )


def is_misdirected(error: BaseException) -> bool:
    return str(error).startswith(_MALFORMED)


def no_bucket(place: str) -> str:
    return (
        f"{place}: there is no such bucket, and none is made here, since it has an owner, a region and a bill. Nothing "
        "was read or written. Correct the name, or make the bucket with the store's own tool, then repeat the command."
    )


def _address(scheme: str) -> str:
    """Where the address of a store comes from, and what it is now."""
    if scheme != "s3":
        return ""
    given = next((f"{name} is {os.environ[name]}" for name in _ENDPOINTS if os.environ.get(name)), "")
    return f" ({given or 'AWS_ENDPOINT_URL_S3 names a store of another maker than Amazon, and is not set'})"


def _kinds(error: BaseException) -> set[str]:
    """Names of its classes: those of libraries that may not be here."""
    return {kind.__name__ for kind in type(error).__mro__}


def _is_of(error: BaseException, libraries: set[str]) -> bool:
    return type(error).__module__.partition(".")[0] in libraries


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it; of a client's error only the response is of interest."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _code(error: BaseException) -> str:
    answers = (getattr(one, "response", None) for one in _chain(error))
    return next((str(answer.get("Error", {}).get("Code")) for answer in answers if isinstance(answer, dict)), "")
