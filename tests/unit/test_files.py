from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, ValidationError

from scythe.files import FileReference, OptionalFileReference, S3Url, file_url_path, is_url, key_url, url_name


class Files(BaseModel):
    file: FileReference = Path("a")
    maybe: OptionalFileReference = None


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("weather/a b.epw", Path),
        ("/abs/ä#1.epw", Path),
        ("~/a.epw", Path),
        ("C:/a.epw", Path),
        (Path("x.inp"), Path),
        ("s3://bucket/a/b.epw", S3Url),
        ("https://example.com/a.epw?year=2020", AnyUrl),
        ("file:///tmp/a%20b.epw", AnyUrl),
        (AnyUrl("https://example.com/a"), AnyUrl),
        (S3Url("s3://bucket/a"), S3Url),
    ],
)
def test_a_file_reference_is_a_path_or_a_url(value: Any, kind: type) -> None:
    reference = Files(file=value).file
    assert isinstance(reference, kind)
    assert str(reference) == str(value)
    assert is_url(reference) == (kind is not Path) == is_url(str(value))


@pytest.mark.parametrize("value", ["", "  ", "a\0b", 3, None, b"a", ["a"], PurePosixPath("a"), "s3://", "http://"])
def test_what_is_neither_a_path_nor_a_url_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        Files(file=value)


def test_only_an_optional_file_reference_may_be_none() -> None:
    assert Files(maybe=None).maybe is None
    assert Files(maybe="a").maybe == Path("a")


@pytest.mark.parametrize("value", ["a b.inp", "s3://bucket/a%20b.inp", "https://example.com/a?b=c#d"])
def test_a_file_reference_survives_json(value: str) -> None:
    model = Files(file=value)
    assert Files.model_validate_json(model.model_dump_json()) == model


def test_the_schema_calls_a_file_reference_a_uri_reference() -> None:
    schema = Files.model_json_schema()["properties"]["file"]
    assert (schema["type"], schema["format"]) == ("string", "uri-reference")


names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=20
).filter(lambda name: name not in (".", ".."))


@given(st.lists(names, min_size=1, max_size=4))
def test_the_path_and_the_name_of_an_object_are_read_back_from_its_url(segments: list[str]) -> None:
    url = key_url("file:///runs/", "/".join(segments))
    assert file_url_path(url) == Path("/runs", *segments)
    assert url_name(url) == segments[-1]
    assert file_url_path(str(AnyUrl(url))) == Path("/runs", *segments)


@pytest.mark.parametrize("url", ["s3://bucket/a", "https://example.com/a", "file://server/share/a", "memory://a"])
def test_a_url_of_another_place_has_no_local_path(url: str) -> None:
    assert file_url_path(url) is None


def test_an_s3_url_names_a_bucket_and_a_key() -> None:
    url = S3Url("s3://bucket/a/b.epw")
    assert (url.host, url.path) == ("bucket", "/a/b.epw")
    with pytest.raises(ValidationError):
        S3Url("https://bucket/a")
