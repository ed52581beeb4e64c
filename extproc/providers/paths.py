"""The segments of a request path as a lenient server reads them. Knows no API."""

from urllib.parse import unquote


def segments(path: str) -> list[str]:
    """Lower-case segments without parameters, no empty ones or dots: `//v1;a/Chat%2Fcompletions/`
    is metered too.
    """
    return [segment.lower() for segment in spelled_segments(path)]


def spelled_segments(path: str) -> list[str]:
    """The same, spelled as in the path: for APIs that name the model there."""
    if "%" in path:
        path = unquote(path)
    found: list[str] = []
    for part in path.partition("?")[0].split("/"):
        segment = part.partition(";")[0].strip() if not part.isalnum() else part
        if segment == "..":
            del found[-1:]
        elif segment and segment != ".":
            found.append(segment)
    return found
