"""The public address of the repository: kept in ``pyproject.toml``, copied to the files that spell it out.

``make address`` runs this module.
"""

import re
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlparse

import yaml

from mnist_lib.base.files import write_atomically
from mnist_lib.parameters import ParameterError

ROOT = Path(__file__).parents[2]


def copy_address() -> list[Path]:
    """Write the public address of pyproject.toml over the one in the files that spell it out; returns those changed.

    Raises:
        ParameterError: it is not the address of a repository on GitHub; nothing is changed.
    """
    settings = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    old, new = urlparse(settings["repository"]["url"]).path.strip("/"), _repository()
    pages = [*sorted((ROOT / "notebooks").glob("*.ipynb")), *sorted((ROOT / "book").glob("*.md"))]
    # The old address is read from _config.yml, so that is the last to change.
    changed = []
    for path in [ROOT / "CITATION.cff", ROOT / "README.md", *pages, ROOT / "_config.yml"]:
        text = path.read_text("utf-8")
        after = re.sub(rf"((?:github\.com|/github|/gh)/){re.escape(old)}(?![\w.-])", rf"\g<1>{new}", text)
        if after != text:
            write_atomically(path, after.encode())
            changed.append(path)
    return changed


def site_address() -> str:
    """Where GitHub Pages shows the book."""
    owner, name = _repository().split("/")
    return f"https://{owner}.github.io/{name}/"


def _repository() -> str:
    """Return the repository as ``owner/name``, from ``pyproject.toml``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    address = project.get("urls", {}).get("Repository", "")
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", address)
    if found is None:
        raise ParameterError(f"pyproject.toml: Repository = {address!r}: expected https://github.com/<owner>/<name>")
    return found[1]


if __name__ == "__main__":
    try:
        for changed in copy_address():
            print(f"changed {changed}")
    except ParameterError as error:
        sys.exit(str(error))
