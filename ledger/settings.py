"""Where the services are: the environment, then DIR/env of `ledger up`. Opens no connection."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ledger.cli.session import Refusal, Settings

DEFAULT_DATA_DIR: Final = Path(".tollkeeper")
DATA_DIR: Final = "TOLLKEEPER_DATA_DIR"
POSTGRES_DSN: Final = "TOLLKEEPER_POSTGRES_DSN"
REDIS_URL: Final = "TOLLKEEPER_REDIS_URL"
ORG: Final = "TOLLKEEPER_ORG"
PRICE_LIST: Final = "TOLLKEEPER_PRICE_LIST"
_MAX_ENV_FILE_BYTES: Final = 64 * 1024


def load(data_dir: Path | None, environ: Mapping[str, str]) -> Settings:
    """The settings of this run: a variable of the environment wins over its line in DIR/env."""
    directory = data_dir or Path(environ.get(DATA_DIR) or DEFAULT_DATA_DIR)
    values = {**_read_env_file(directory / "env"), **{n: v for n, v in environ.items() if v}}
    return Settings(
        data_dir=directory,
        postgres_dsn=values.get(POSTGRES_DSN, ""),
        redis_url=values.get(REDIS_URL, ""),
        org=values.get(ORG) or "default",
        price_list=values.get(PRICE_LIST, ""),
    )


def parse_env(text: str) -> dict[str, str]:
    """The `NAME=value` lines of `text`; comments and lines without a name are skipped."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and name and not name.startswith("#"):
            values[name.strip()] = _unquoted(value.strip())
    return values


def _unquoted(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def _read_env_file(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            return parse_env(file.read(_MAX_ENV_FILE_BYTES).decode())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path} cannot be read: {error}.") from error
