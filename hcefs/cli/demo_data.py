"""The real medical files that the demo stores, and what to look for on the disks after.

Owns where the files come from: the test data of the packages ``pydicom``,
``pydicom-data`` and ``deid-data``, which the extra ``demo`` installs.  Nothing is
downloaded and nothing is part of this package.

Not guaranteed: that a file is sound DICOM; the storage does not look inside.
"""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hcefs.errors import Corrupt, NotFound
from hcefs.integrity import Buffer

RUN_BYTES = 32
"""Long enough that ciphertext never holds it by chance."""

RUN_DISTINCT_MIN = 12
"""A run of fewer different bytes (black border, padding) could be anywhere."""

RUNS_PER_FILE = 12
HEADER_BYTES = 4096
_COPY_BYTES = 1 << 20
_UID = re.compile(rb"[0-9.]{%d}" % RUN_BYTES)


@dataclass(frozen=True)
class _Source:
    key: str
    title: str
    package: str
    path: str
    bytes: int


SOURCES = (
    _Source("ct", "CT slice", "pydicom", "data/test_files/CT_small.dcm", 39_206),
    _Source("ecg", "12-lead ECG", "pydicom", "data/test_files/waveform_ecg.dcm", 291_088),
    _Source("radiograph", "radiograph", "data_store", "data/RG1_UNCI.dcm", 7_200_356),
    _Source(
        "cine", "ultrasound cine", "deid_data", "data/ultrasounds/RGB_CINE.zip", 104_465_556
    ),
)  # fmt: skip
"""Which file of which package; a ZIP holds one file."""


@dataclass(frozen=True)
class Exhibit:
    """One file that the demo stores."""

    key: str
    title: str
    path: Path
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.name


def package_folder(package: str) -> Path | None:
    """Where an installed package lies, or None; imports nothing."""
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or ()) if found is not None else []
    return Path(places[0]) if places else None


def find_exhibits(
    folder: Path, locate: Callable[[str], Path | None] = package_folder
) -> tuple[Exhibit, ...]:
    """The files, with their SHA-256; what is zipped is unpacked into ``folder``.

    Raises:
        NotFound: ``no-demo-data``: a package or its file is not installed.
        Corrupt: ``demo-data``: a file is not the one that the demo was written for.
    """
    paths = [_locate(source, locate) for source in SOURCES]  # before the long unpacking
    exhibits = []
    for source, found in zip(SOURCES, paths, strict=True):
        path = _unpacked(found, folder) if found.suffix == ".zip" else found
        size = path.stat().st_size
        if size != source.bytes:
            raise Corrupt(
                f"{path} has {size:,} bytes and not {source.bytes:,}: install the demo's data "
                "again with pip install --force-reinstall 'hcefs[demo]'",
                reason="demo-data",
            )
        exhibits.append(Exhibit(source.key, source.title, path, size, sha256_of_file(path)))
    return tuple(exhibits)


def _locate(source: _Source, locate: Callable[[str], Path | None]) -> Path:
    folder = locate(source.package)
    path = folder / source.path if folder is not None else None
    if path is None or not path.is_file():
        raise NotFound(
            "the demo stores real medical files that come with the packages pydicom, "
            f"pydicom-data and deid-data, and {Path(source.path).name} is not installed: "
            "pip install 'hcefs[demo]'",
            reason="no-demo-data",
        )
    return path


def _unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as opened:
        (member,) = (entry for entry in opened.infolist() if not entry.is_dir())
        target = folder / Path(member.filename).name
        with opened.open(member) as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain, _COPY_BYTES)
    return target


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def telling_runs(data: Buffer, count: int = RUNS_PER_FILE) -> list[bytes]:
    """Runs of a file that would betray its plaintext: of its header and of its pixels.

    Spread evenly; where the data is too uniform to tell, the next telling run counts.
    """
    view = memoryview(data)
    runs = {bytes(found[0]): None for found in _UID.finditer(bytes(view[:HEADER_BYTES]))}
    runs = dict.fromkeys(list(runs)[:3])
    step = max(1, len(view) // (count + 1))
    for number in range(1, count + 1):
        for offset in range(number * step, len(view) - RUN_BYTES, RUN_BYTES):
            run = bytes(view[offset : offset + RUN_BYTES])
            if len(set(run)) >= RUN_DISTINCT_MIN:
                runs[run] = None
                break
    return list(runs)


@dataclass(frozen=True)
class Found:
    """A forbidden run, by its name, and the file that holds it."""

    name: str
    path: Path


@dataclass(frozen=True)
class Search:
    """What a search of folders looked at, and what it found."""

    files: int
    bytes: int
    found: tuple[Found, ...]


def search_folders(folders: Iterable[Path], runs: Sequence[tuple[str, bytes]]) -> Search:
    """Look for each (name, run) in every file below the folders."""
    files = total = 0
    found: list[Found] = []
    for path in _files(folders):
        files += 1
        size = path.stat().st_size
        total += size
        if not size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            found += [Found(name, path) for name, run in runs if mapped.find(run) >= 0]
    return Search(files, total, tuple(found))


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path
