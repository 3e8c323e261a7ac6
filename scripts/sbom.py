"""Writes what an image contains as CycloneDX 1.5 in JSON, for scripts/images.

Crates come from `cargo tree` and Cargo.lock, shared libraries and other files from the package database of Debian, and
a file that no package owns is listed with its hash. Output has no time and no random number, so that the same image makes
the same bytes.
"""

import hashlib
import json
import subprocess
import tomllib
from functools import cache
from pathlib import Path

WORKSPACE = Path(__file__).resolve().parent.parent

# The packages of `make images`. Together, because cargo builds them together and their features add up.
PACKAGES = ["evermesh", "evermesh-proxy-init", "evermesh-testkit"]

REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"


@cache
def crate_graph():
    """Returns the licence of each crate (name, version), and the crates that each one links."""
    command = ["cargo", "tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", "|{p}|{l}"]
    for package in PACKAGES:
        command += ["--package", package]
    listed = subprocess.run(command, cwd=WORKSPACE, check=True, capture_output=True, text=True).stdout
    licences, edges, path = {}, {}, []
    for line in filter(None, listed.splitlines()):
        depth, package, licence = line.split("|")
        name, version = package.split(" ")[:2]
        crate = name, version.removeprefix("v")
        licences[crate] = licence.removesuffix(" (*)").replace("/", " OR ")
        del path[int(depth) :]
        edges.setdefault(crate, set())
        if path:
            edges[path[-1]].add(crate)
        path.append(crate)
    return licences, edges


@cache
def checksums():
    """Returns the checksum of each crate (name, version) from crates.io."""
    locked = tomllib.loads((WORKSPACE / "Cargo.lock").read_text())["package"]
    return {(it["name"], it["version"]): it["checksum"] for it in locked if it.get("source") == REGISTRY}


def crates(package):
    """Returns the components of a program of the workspace, and their dependencies."""
    licences, edges = crate_graph()
    found, open_ = set(), [crate for crate in edges if crate[0] == package]
    while open_:
        crate = open_.pop()
        if crate not in found:
            found.add(crate)
            open_ += edges[crate]
    components = []
    for crate in sorted(found):
        name, version = crate
        component = {"type": "library", "bom-ref": cargo(crate), "name": name, "version": version, "purl": cargo(crate)}
        if crate in checksums():
            component["hashes"] = [{"alg": "SHA-256", "content": checksums()[crate]}]
        if licences[crate]:
            component["licenses"] = [{"expression": licences[crate]}]
        components.append(component)
    depends = [{"ref": cargo(it), "dependsOn": sorted(map(cargo, edges[it]))} for it in sorted(found)]
    return components, depends


def cargo(crate):
    name, version = crate
    return f"pkg:cargo/{name}@{version}"


def owner(path):
    """Returns name, version and architecture of the Debian package of a file, or None."""
    # /lib and /bin are links into /usr, and packages name files by either path.
    below = path.relative_to("/usr" if path.is_relative_to("/usr") else "/")
    for spelling in [Path("/") / below, Path("/usr") / below]:
        try:
            found = subprocess.run(["dpkg-query", "--search", spelling], capture_output=True, text=True)
            if found.returncode == 0:
                package = found.stdout.split(": ")[0]
                shown = ["dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}", package]
                return subprocess.run(shown, check=True, capture_output=True, text=True).stdout.split()
        except FileNotFoundError:
            return None  # The machine is not a Debian.
    return None


def of_files(paths):
    """Returns a component for each Debian package of these files, and for each file without one."""
    components = {}
    for path in paths:
        package = owner(path)
        if package:
            name, version, architecture = package
            purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={architecture}"
            components[purl] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        else:
            components[str(path)] = file(path)
    return [components[key] for key in sorted(components)]


def file(path):
    return {"type": "file", "bom-ref": str(path), "name": str(path), "hashes": [hash_of(path)]}


def hash_of(path):
    return {"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}


def envoy(program, version):
    purl = f"pkg:github/envoyproxy/envoy@v{version}"
    return {
        "type": "application",
        "bom-ref": purl,
        "name": "envoy",
        "version": version,
        "purl": purl,
        "hashes": [hash_of(program)],
    }


def document(tag, archive, components, depends):
    """Returns the text for an image in an archive."""
    name, version = tag.split(":")
    subject = {"type": "container", "bom-ref": tag, "name": name, "version": version, "hashes": [hash_of(archive)]}
    direct = [it["bom-ref"] for it in components]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": subject},
        "components": components,
        "dependencies": [{"ref": tag, "dependsOn": direct}, *depends],
    }
    return json.dumps(bom, indent=2) + "\n"
