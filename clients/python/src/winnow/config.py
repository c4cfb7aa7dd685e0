"""Where the service is and with which key: from arguments, else the environment, else a small file."""

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from winnow.errors import ConfigurationError

_HINT = "Run `winnow configure`, or set WINNOW_URL and WINNOW_KEY."
_HIGHEST_PORT = 65535


@dataclass(frozen=True)
class Config:
    """``url`` is the service's address without ``/api/v1``; ``key`` what goes behind ``Bearer``."""

    url: str
    key: str = field(repr=False)


def config_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "winnow" / "client.toml"


def load(url: str | None = None, key: str | None = None) -> Config:
    """Find both. A key out of the file is used only for the address beside it. Raises ConfigurationError."""
    stored = _read(config_file())
    found_url = url or os.environ.get("WINNOW_URL") or stored.get("url")
    if not found_url:
        raise ConfigurationError("It is not known where the service is.", code="not_configured", hint=_HINT)
    found_url = _checked(found_url)
    own_key = stored.get("key") if found_url == stored.get("url") else None
    found_key = key or os.environ.get("WINNOW_KEY") or own_key
    if not found_key:
        raise ConfigurationError(f"There is no key for {found_url}.", code="not_configured", hint=_HINT)
    if not (found_key.isascii() and found_key.isprintable()):
        raise ConfigurationError("The key holds characters that no key has.", code="not_configured", hint=_HINT)
    return Config(found_url, found_key)


def save(url: str, key: str) -> Path:
    """Write the file, readable by its user alone."""
    path = config_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(f"url = {_quoted(_checked(url))}\nkey = {_quoted(key)}\n")
    unfinished.replace(path)
    return path


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.", code="not_configured") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no text in UTF-8.", code="not_configured", hint=_HINT) from error
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is no TOML: {error}.", code="not_configured", hint=_HINT) from error
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _checked(url: str) -> str:
    if not _is_address(url):
        raise ConfigurationError(
            f"{url!r} is no address.", code="not_configured", hint="One reads http://127.0.0.1:8000."
        )
    return url.rstrip("/").removesuffix("/api/v1")


def _is_address(url: str) -> bool:
    try:
        parts = httpx.URL(url)
        # As the system will look it up, which knows no name with an empty part or one of more than 63 bytes.
        parts.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError):
        return False
    return parts.scheme in {"http", "https"} and bool(parts.host) and (parts.port or 0) <= _HIGHEST_PORT


def _quoted(text: str) -> str:
    """Write a basic string of TOML; of what must be escaped there, addresses and keys can hold these alone."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
