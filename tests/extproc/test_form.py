"""Multipart forms: what they say, and that no form can be read as another one."""

import json
from email.parser import BytesParser
from email.policy import HTTP

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.form import MAX_PARTS, as_json, is_form
from extproc.providers.shape import BadRequest

TYPE = b"multipart/form-data; boundary=xYzZY"


def form(*parts: tuple[str, bytes], boundary: bytes = b"xYzZY") -> bytes:
    """A form of (parameters of the disposition, content) pairs."""
    body = b"".join(
        b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n"
        % (boundary, parameters.encode(), content)
        for parameters, content in parts
    )
    return body + b"--%s--\r\n" % boundary


MODEL = ('name="model"', b"gpt-4o-transcribe")
FILE = ('name="file"; filename="a.mp3"', b"\x00\xff\r\n--other\r\n" * 9)


def read(body: bytes, content_type: bytes = TYPE) -> object:
    """What the form says, as JSON values."""
    said = as_json(body, content_type)
    assert not isinstance(said, BadRequest), said
    return json.loads(said)


@pytest.mark.parametrize("order", [(MODEL, FILE), (FILE, MODEL)])
def test_fields_and_the_sizes_of_files(order: tuple[tuple[str, bytes], ...]) -> None:
    """Curl sends the file first, the SDKs last; the content of a file is not looked at."""
    assert read(form(*order)) == {"model": "gpt-4o-transcribe", "files": [len(FILE[1])]}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["name=a", 'name="b"', 'name="c"; filename="d\\"e.png"']),
            st.binary(max_size=200).filter(lambda content: b"--xYzZY" not in content),
        ),
        max_size=9,
    )
)
def test_every_part_is_read(parts: list[tuple[str, bytes]]) -> None:
    """Whatever the parts contain: each text is a member, as often as it came, each file a size."""
    said = as_json(form(*parts), TYPE)
    assert not isinstance(said, BadRequest)
    pairs = json.loads(said, object_pairs_hook=list)
    texts = [content.decode("utf-8", "replace") for head, content in parts if "file" not in head]
    assert [value for _, value in pairs[:-1]] == texts
    assert pairs[-1] == ("files", [len(content) for head, content in parts if "file" in head])


@given(st.binary(max_size=300))
def test_bytes_that_are_no_form_are_a_bad_request(body: bytes) -> None:
    """Nothing raises, and what has no boundary at its start is no form."""
    assert isinstance(as_json(body, TYPE), BadRequest) or body.lstrip(b"\r\n")[:2] == b"--"


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data",
        b"multipart/mixed; boundary=xYzZY",
        b"multipart/form-data; boundary=xYzZY; boundary=other",
        b"multipart/form-data; boundary=" + b"x" * 71,
        b'multipart/form-data; boundary="xYzZY',
    ],
)
def test_a_boundary_that_is_not_plain_is_refused(content_type: bytes) -> None:
    """Servers would disagree on where the parts are."""
    assert is_form(content_type)
    assert isinstance(as_json(form(MODEL), content_type), BadRequest)


def test_a_quoted_boundary_is_read() -> None:
    """Quotes, case and further parameters change nothing."""
    content_type = b'Multipart/Form-Data; charset=utf-8; Boundary="xYzZY"'
    assert read(form(MODEL), content_type) == {"model": "gpt-4o-transcribe", "files": []}


@pytest.mark.parametrize(
    "body",
    [
        b"preamble\r\n" + form(MODEL),
        form(MODEL) + form(('name="model"', b"gpt-image-1")),
        form(MODEL)[:-6],
        form(MODEL).replace(b"\r\n", b"\n"),
        form(('name="model"', b"a\n--xYzZY\nb")),
        form(("name*=utf-8''model", b"x")),
        form(('name="model"; name="prompt"', b"x")),
        form(('name="mo\\"del"', b"x")),
        form(('filename="a.png"', b"x")),
        form(('name="f"; filename="a\\"; name=\\"model"', b"x")),
        form(('name="model"\r\nContent-Transfer-Encoding: base64', b"Z3B0")),
        form(('name="f";\r\n filename="x"', b"x")),
        form(('name="f"\r\nContent-Disposition: form-data; name="model"', b"x")),
        form(*[MODEL] * (MAX_PARTS + 1)),
        form(('name="prompt"', b"x" * (1024 * 1024 + 1))),
        b"--xYzZY\r\n" + b"x" * 10_000 + b"\r\n\r\n",
    ],
)
def test_a_form_that_two_servers_read_differently_is_refused(body: bytes) -> None:
    """One of the readings would be metered and the other billed."""
    assert isinstance(as_json(body, TYPE), BadRequest)


FRAGMENTS = [
    *(b"\r\n", b"\n", b"\r", b'"', b"\\", b";", b" ", b"--", b"--xYzZY", b"--xYzZY--", b"\t"),
    *(b'; name="model"', b"; name=model", b'name*="x"', b"gpt-image-1", b"\r\n\r\n", b"=", b":"),
    *(b'Content-Disposition: form-data; name="model"', b"content-type: text/plain", b"filename=x"),
]


def lenient(body: bytes) -> list[str]:
    """Every model that a lenient reader finds: the standard library's, which minds no line ends."""
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: %s\r\n\r\n%s" % (TYPE, body))
    found = []
    for part in message.iter_parts() if message.is_multipart() else ():
        if part.get_param("name", header="content-disposition") == "model":
            content = part.get_payload(decode=True)
            if not part.get_filename() and isinstance(content, bytes):
                found.append(content.decode("utf-8", "replace"))
    return found


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from(FRAGMENTS)), max_size=4))
def test_what_is_read_is_what_a_lenient_reader_reads(edits: list[tuple[int, bytes]]) -> None:
    """However a form is bent: it is refused, or both find the same one model."""
    body = form(('name="prompt"', b"x"), MODEL, ('name="file"; filename="a.mp3"', b"\x00\xff"))
    for at, fragment in edits:
        body = body[:at] + fragment + body[at:]
    said = as_json(body, TYPE)
    if isinstance(said, BadRequest):
        return
    ours = [value for name, value in json.loads(said, object_pairs_hook=list) if name == "model"]
    assert ours == lenient(body)
