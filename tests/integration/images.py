"""Build the container image without a registry: a base from Debian's mirror, Go from its module proxy, buildah."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

GO = "go1.26.8"
PACKAGES = "ca-certificates,python3-pip,python3-venv,libpython3.11-dev,python-is-python3"
# Where the build finds the certificates of this machine: behind a proxy that inspects TLS, Debian's own are not enough.
CERTIFICATES = "/run/host-ca.crt"


class Buildah:
    """Buildah with a store of its own, which close() removes.

    Args:
        folder: Where base, Go and the store go; the first two stay for the next build.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        # No daemon and no namespaces: it works inside a container, too.
        self.environment = {**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}
        folder.mkdir(parents=True, exist_ok=True)
        self.close()
        try:
            self("from", "--name", "probe", "scratch")
            self("mount", "probe")
            self("rm", "probe")
        except subprocess.CalledProcessError:
            # A file system without overlays; every layer is a whole copy.
            self.close()
            self.environment["STORAGE_DRIVER"] = "vfs"

    def command(self, *arguments: str | Path) -> list[str]:
        """Return the words that run buildah on this store."""
        return ["buildah", "--root", str(self.store), "--runroot", str(self.folder / "run"), *map(str, arguments)]

    def __call__(self, *arguments: str | Path, **options: Any) -> str:
        """Run buildah; returns what it printed, without the line's end."""
        options = {"check": True, "text": True, "stdout": subprocess.PIPE, "env": self.environment, **options}
        return str(subprocess.run(self.command(*arguments), **options).stdout).strip()

    def run(self, container: str, *command: str, options: tuple[str, ...] = (), check: bool = True) -> str:
        """Run a command in a container as its user; returns both of its outputs together.

        They go to a mounted file: buildah's own pipes have lost all that a short command had said, once in 250 times.
        """
        said = self.folder / "said"
        said.write_bytes(b"")
        said.chmod(0o666)  # the container's user is another one
        words = ("sh", "-c", 'exec "$@" > /said 2>&1', "sh", *command)
        run = self.command("run", "--volume", f"{said}:/said", *options, container, "--", *words)
        code = subprocess.run(run, env=self.environment).returncode
        output = said.read_text(encoding="utf-8").strip()
        if check and code:
            raise subprocess.CalledProcessError(code, run, output)
        return output

    def build(self, context: Path, tag: str, target: str, **arguments: str) -> None:
        """Build a target of the Dockerfile on the fresh Debian."""
        certificates = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
        arguments |= {"BASE_IMAGE": "localhost/base", "GO_IMAGE": "localhost/go"}
        arguments |= {"PIP_CERT": CERTIFICATES, "SSL_CERT_FILE": CERTIFICATES}
        flags = [flag for name, value in arguments.items() for flag in ("--build-arg", f"{name}={value}")]
        volume = f"{certificates}:{CERTIFICATES}:ro"
        self("bud", "--pull-never", "--volume", volume, *flags, "--target", target, "--tag", tag, context, stdout=None)

    def import_base(self) -> None:
        """Make the image localhost/base: Debian 12 with Python 3.11."""
        tar = self.folder / "base.tar"
        if not tar.exists():
            root = self.folder / "base"
            shutil.rmtree(root, ignore_errors=True)
            subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root], check=True)
            excluded = [
                f"--exclude=./{part}/*" for part in ("dev", "proc", "sys", "var/cache/apt", "var/lib/apt/lists")
            ]
            part = tar.with_suffix(".part")
            subprocess.run(["tar", "-C", root, *excluded, "-cf", part, "."], check=True)
            part.rename(tar)
            shutil.rmtree(root)
        self._import("localhost/base", "FROM scratch\nADD base.tar /\n", tar)

    def import_go(self) -> None:
        """Make the image localhost/go: the base with Go, which go 1.21 or newer has or fetches."""
        go = self.folder / "go"
        if not (go / "bin" / "go").exists():
            environment = {**os.environ, "GOTOOLCHAIN": GO}
            found = subprocess.run(
                ["go", "env", "GOROOT"], env=environment, check=True, text=True, stdout=subprocess.PIPE
            )
            shutil.copytree(found.stdout.strip(), part := self.folder / "go.part", dirs_exist_ok=True, symlinks=True)
            part.rename(go)
        lines = (
            "FROM localhost/base\nCOPY go /usr/local/go\nENV PATH=/usr/local/go/bin:/usr/bin:/bin GOTOOLCHAIN=local\n"
        )
        self._import("localhost/go", lines, go)

    def _import(self, tag: str, lines: str, what: Path) -> None:
        dockerfile = self.folder / "Dockerfile.import"
        dockerfile.write_text(lines, encoding="utf-8")
        ignored = self.folder / ".dockerignore"
        ignored.write_text(f"*\n!{what.name}\n", encoding="utf-8")
        self("bud", "--quiet", "--pull-never", "--file", dockerfile, "--tag", tag, self.folder)

    def close(self) -> None:
        """Give the disk back: all images and containers of this store."""
        if self.store.exists():
            self("rm", "--all")
            shutil.rmtree(self.store)
        shutil.rmtree(self.folder / "run", ignore_errors=True)
