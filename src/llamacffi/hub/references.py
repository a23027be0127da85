"""What a remote reference says, checked before any request is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from llamacffi.errors import DownloadError

__all__ = [
    "HubReference",
    "UrlReference",
    "check_sha256",
    "check_url",
    "parse",
    "shown",
    "split_names",
]

_HUB_FORM = "hf:owner/repo/file.gguf or hf:owner/repo@revision/file.gguf"
_HUB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_SPLIT = re.compile(
    r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})(?P<end>\.gguf)", re.IGNORECASE
)
_URL_SAFE = "/%:@!$&'()*+,;=~-._"


@dataclass(frozen=True)
class HubReference:
    """`hf:owner/repo@revision/file`; `sha256` is what the caller expects of that file."""

    repo: str
    revision: str
    file: str
    sha256: str | None


@dataclass(frozen=True)
class UrlReference:
    """An https URL without its fragment; `sha256` is what the caller expects of the file."""

    url: str
    name: str
    sha256: str | None


def parse(text: str, sha256: str | None) -> HubReference | UrlReference | None:
    """Read a remote reference; None when `text` is not written like one.

    Raises:
        DownloadError: It is one, but malformed, or it names something that must not be fetched.
    """
    if text.startswith("hf:"):
        return _parse_hub(text, sha256)
    if re.match(r"https?://", text, re.IGNORECASE):
        return _parse_url(text, sha256)
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise DownloadError(
            f"cannot fetch {shown(text)!r}: {scheme[0]} is not supported; "
            f"give a path, an alias, {_HUB_FORM}, or an https:// URL"
        )
    return None


def _parse_hub(text: str, sha256: str | None) -> HubReference:
    owner, _, rest = text.removeprefix("hf:").partition("/")
    repo, _, file = rest.partition("/")
    repo, at, revision = repo.partition("@")
    # A revision such as refs/pr/1 is written with its slashes as %2F.
    revision = unquote(revision) if at else "main"
    if not (_HUB_NAME.fullmatch(owner) and _HUB_NAME.fullmatch(repo) and file):
        raise DownloadError(f"{text!r} is not a Hugging Face reference; write {_HUB_FORM}")
    _check_name(revision, text, "the revision")
    _check_name(file, text, "the file name")
    if not file.lower().endswith(".gguf"):
        raise DownloadError(f"{text!r} names {file!r}, which is no GGUF file; write {_HUB_FORM}")
    return HubReference(f"{owner}/{repo}", revision, file, sha256)


def _parse_url(text: str, sha256: str | None) -> UrlReference:
    parts = check_url(text)
    key, _, value = parts.fragment.partition("=")
    if parts.fragment:
        # A misspelt key must not silently switch the verification off.
        if key != "sha256":
            raise DownloadError(
                f"{shown(text)!r} has the fragment {parts.fragment!r}; only #sha256=<64 hex "
                "digits> is understood"
            )
        value = check_sha256(value)
        if sha256 not in (None, value):
            raise DownloadError(
                f"two hashes were given for {shown(text)!r}: {value} in the URL and {sha256}; "
                "give one"
            )
        sha256 = value
    # Unquoted before it is split, so that an encoded slash or `..` is seen as well.
    path = unquote(parts.path)
    name = path.rpartition("/")[2]
    _check_name(path if ".." in path.split("/") else name, shown(text), "the file name")
    url = urlunsplit(
        (
            parts.scheme.lower(),
            parts.netloc,
            quote(parts.path, _URL_SAFE),
            quote(parts.query, _URL_SAFE + "?"),
            "",
        )
    )
    return UrlReference(url, name, sha256)


def check_url(url: str, *, loopback: bool = True) -> SplitResult:
    """Refuse a URL that is not https, except plain http to this machine if `loopback` allows it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise DownloadError(
            f"{shown(url)!r} is not a URL: {error}; write https://host/file.gguf"
        ) from error
    if not host or not url.isprintable() or " " in url or not host.isascii():
        raise DownloadError(
            f"{shown(url)!r} is not a URL; write https://host/file.gguf, with special characters "
            "percent-encoded"
        )
    if "@" in parts.netloc:
        raise DownloadError(
            f"{shown(url)!r} carries a user name or a password, which would end up in logs; "
            "fetch the file by other means and give its path"
        )
    if parts.scheme == "https" or (parts.scheme == "http" and loopback and is_loopback(host)):
        return parts
    raise DownloadError(
        f"refused to fetch {shown(url)!r}: {parts.scheme}:// can be read and changed on its way; "
        "use https:// (plain http is accepted for this machine only)"
    )


def is_loopback(host: str) -> bool:
    """Whether a URL's host is this machine."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def shown(url: str) -> str:
    """Drop what messages and logs must not repeat of a URL: credentials and signed queries."""
    return re.sub(r"(?<=://)[^/?#]*@", "", re.split(r"[?#]", url, maxsplit=1)[0])


def check_sha256(text: str) -> str:
    """Return the hash in lower case, or raise DownloadError if it is none."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise DownloadError(f"{text!r} is not a sha256; give its 64 hexadecimal digits")
    return text.lower()


def split_names(name: str) -> list[str]:
    """All parts of a split GGUF, given the name of one of them; any other name alone."""
    match = _SPLIT.fullmatch(name)
    if match is None:
        return [name]
    part, count = int(match["part"]), int(match["count"])
    if not 1 <= part <= count:
        raise DownloadError(f"{name!r} cannot exist: part {part} of {count}; the first is 00001")
    return [f"{match['stem']}-{i:05}-of-{count:05}{match['end']}" for i in range(1, count + 1)]


def _check_name(name: str, reference: str, what: str) -> None:
    # These names become paths in the cache: none may lead out of it, on any platform.
    segments = name.split("/")
    if (
        any(segment in ("", ".", "..") for segment in segments)
        or not name.isprintable()
        or re.search(r'[\\:*?"<>|]', name)
    ):
        raise DownloadError(
            f"refused {reference!r}: {what} {name!r} is absolute, leads to another folder, or is "
            "no file name; "
            "name a file below the repository or the server"
        )
