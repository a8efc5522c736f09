"""File references: parse and classify; no I/O.

A file reference is a local path or a URL. Specs carry paths until they are allocated and URLs from then on; a
simulation always gets a local path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import quote, unquote, urlsplit

from pydantic import AnyUrl, PlainSerializer, PlainValidator, UrlConstraints, ValidationError, WithJsonSchema

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


class S3Url(AnyUrl):
    """The URL of an object in a bucket, `s3://bucket/key`."""

    _constraints = UrlConstraints(allowed_schemes=["s3"], host_required=True)


class FileMarker:
    """Marks an annotation as a file reference."""


def parse_file_reference(value: Any) -> Path | AnyUrl:
    """Tell URLs from local paths.

    >>> parse_file_reference("s3://bucket/a.epw")
    S3Url('s3://bucket/a.epw')
    >>> parse_file_reference("weather/a.epw")
    PosixPath('weather/a.epw')
    """
    if isinstance(value, str):
        if not value.strip() or "\0" in value:
            raise ValueError("a file reference is a path or a URL; this one is empty or has a NUL character")
        return _parse_url(value) if _URL.match(value) else Path(value)
    if isinstance(value, Path | AnyUrl):
        return value
    raise ValueError(f"a file reference is a path or a URL, not {type(value).__name__}")


def _parse_url(text: str) -> AnyUrl:
    try:
        return S3Url(text) if text.startswith("s3://") else AnyUrl(text)
    except ValidationError as error:
        raise ValueError(f"not a URL: {error.errors()[0]['msg']}") from error


FileReference: TypeAlias = Annotated[
    Path | S3Url | AnyUrl,
    PlainValidator(parse_file_reference),
    PlainSerializer(str, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "uri-reference"}),
    FileMarker(),
]
"""A file that a simulation reads or writes: a local path, or a URL (`file://`, `s3://`, …)."""

OptionalFileReference: TypeAlias = FileReference | None
"""A file reference that may be missing."""


def is_url(reference: object) -> bool:
    """Tell a URL from a local path."""
    return isinstance(reference, AnyUrl) or (isinstance(reference, str) and _URL.match(reference) is not None)


def file_url_path(url: str) -> Path | None:
    """Return the local path behind a `file://` URL, or None for any other.

    >>> file_url_path("file:///tmp/a%20b.inp")
    PosixPath('/tmp/a b.inp')
    """
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" and parts.netloc in ("", "localhost") else None


def key_url(root: str, key: str) -> str:
    """Return the URL of an object under the URL of its store."""
    return f"{root.rstrip('/')}/{quote(key, safe='/=+,@~!$&()*;:')}"


def url_name(url: str) -> str:
    """Return the file name a URL ends with.

    >>> url_name("file:///runs/a%20b.inp")
    'a b.inp'
    """
    return unquote(urlsplit(url).path).rpartition("/")[2]
