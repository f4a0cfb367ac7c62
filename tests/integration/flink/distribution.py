"""Flink's distribution out of the packages of PyFlink, which hold it whole, and whether a runner's jar fits it.

    python -m tests.integration.flink.distribution .cache/flink/packages .cache/flink/flink-1.19.3

The wheel `apache-flink` brings bin/ and conf/, the source package `apache-flink-libraries` lib/, opt/ and plugins/.
PyFlink itself is not installed: its pins are not this project's.
"""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

_IN_WHEEL = ("pyflink/bin/", "pyflink/conf/")
_JAR_VERSION = re.compile(r"flink-(\d+\.\d+)")


def unpack(packages: Path, home: Path) -> None:
    """Put the two packages in a folder together to a Flink home.

    Args:
        packages: Holds both, as `pip download` leaves them.
        home: A new folder.
    """
    (wheel,) = packages.glob("apache_flink-*.whl")
    (libraries,) = packages.glob("apache*flink*libraries-*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(_IN_WHEEL) and not name.endswith("/"):
                target = home / name.removeprefix("pyflink/")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
                target.chmod(0o755)  # a wheel forgets which files are scripts
    with tarfile.open(libraries) as archive:
        for member in archive:
            _, _, inner = member.name.partition("/deps/")
            if inner and member.isfile():
                archive.extract(member.replace(name=inner), home, filter="data")


def flink_version(home: Path) -> str:
    """Return the version of a Flink home.

    Raises:
        FileNotFoundError: It is none.
    """
    found = [path.stem.removeprefix("flink-dist-") for path in home.glob("lib/flink-dist-*.jar")]
    if len(found) != 1:
        raise FileNotFoundError(f"{home} is no Flink distribution: it has no lib/flink-dist-*.jar; run make flink")
    return found[0]


def check_fit(home: Path, jar: Path) -> None:
    """See that the jar of Beam's runner was made for the minor version of a Flink home.

    Raises:
        ValueError: It was not, or its name does not say.
        FileNotFoundError: One of them is not there.
    """
    version = flink_version(home)
    if not jar.is_file():
        raise FileNotFoundError(f"Beam's runner for Flink is not at {jar}; run make flink, or set FLINK_JOB_SERVER")
    made_for = _JAR_VERSION.search(jar.name)
    if made_for is None or not version.startswith(f"{made_for[1]}."):
        said = f"is for Flink {made_for[1]}" if made_for else "does not say in its name for which Flink it is"
        raise ValueError(
            f"{jar.name} {said}, and {home} is Flink {version}: their minor versions must be the same; "
            "give JOB_SERVER=beam-runners-flink-<minor>-job-server-<version>.jar and FLINK=<minor>.<patch>"
        )


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
