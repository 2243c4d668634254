"""The images: every build step runs as written, and the entry points run unprivileged on a read-only system."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dockerfile import Build, Stage, parse, sandbox
from tests.support.pki import DOMAIN, throwaway_ca, throwaway_server
from tests.support.tunnels_api import API_KEY, tunnels_api

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
LOCKS = ROOT / "deploy" / "locks"
needs_bwrap = pytest.mark.skipif(
    shutil.which("bwrap") is None or shutil.which("cc") is None, reason="bubblewrap or a C compiler is not installed"
)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    work = tmp_path_factory.mktemp("image")
    yield Build(DOCKERFILE, ROOT, work)
    shutil.rmtree(work)


def run(stage: Stage, *command: str, expect: int = 0, network: bool = True, **mounts: tuple[str, Path]) -> str:
    """What a command prints inside the image, as the image's user, its root read-only."""
    places = {place.replace("__", "/").replace("_", "-"): mount for place, mount in mounts.items()}
    done = subprocess.run(
        [*sandbox(stage, network=network, mounts=places), *command],
        env={"PATH": "/usr/bin", "API_TOKEN": API_KEY},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_both_images_run_as_nobody_and_need_no_shell() -> None:
    stages = {name: dict(steps) for name, _, steps in parse(DOCKERFILE)}
    for name in ("customer", "operator"):
        assert stages[name]["USER"] == "65532:65532"
        assert stages[name]["ENTRYPOINT"].startswith("[")
        assert "RUN" not in stages[name]
    assert "CMD [" in stages["customer"]["HEALTHCHECK"]
    for script in (ROOT / "deploy" / "image").iterdir():
        assert script.read_text().startswith("#!/opt/qanat/bin/python -IB\n")
        assert script.stat().st_mode & 0o111


def test_everything_a_stage_copies_is_let_into_the_build() -> None:
    everything, *lines = (ROOT / ".dockerignore").read_text().split()
    assert everything == "*"
    let_in = [Path(line[1:]) for line in lines if line.startswith("!")]
    steps = [rest.split() for _, _, steps in parse(DOCKERFILE) for instruction, rest in steps if instruction == "COPY"]
    copied = [
        Path(word)
        for words in steps
        if not any(word.startswith("--from=") for word in words)
        for word in words[:-1]
        if not word.startswith("--")
    ]
    assert [path for path in copied if not any(path.is_relative_to(place) for place in let_in)] == []
    assert all((ROOT / path).exists() for path in [*copied, *let_in])


@pytest.mark.parametrize("name", ["build", "customer", "operator"])
def test_every_package_is_pinned_by_hash(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text().replace("\\\n", " ")
    packages = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert packages
    for line in packages:
        assert re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line
    assert "://" not in text


def test_the_locks_hold_every_dependency_and_agree() -> None:
    customer, operator = (pinned(LOCKS / f"{name}.txt") for name in ("customer", "operator"))
    assert customer.items() <= operator.items()
    text = (ROOT / "pyproject.toml").read_text()
    for start, lock in (("dependencies = [", customer), ("server = [", operator)):
        block = text.partition(start)[2].partition("\n]")[0]
        names = {name.lower() for name in re.findall(r'^  "([A-Za-z0-9_-]+)', block, re.MULTILINE)}
        assert names - set(lock) == set(), "make lock"


def pinned(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))


@pytest.mark.slow
def test_the_bill_of_materials_lists_every_package(tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("cyclonedx-py")
    made = tmp_path / "sbom.json"
    command = [str(tool), "requirements", str(LOCKS / "customer.txt"), "--output-reproducible", "-o", str(made)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    listed = {part["name"]: part["version"] for part in json.loads(made.read_text())["components"]}
    assert listed.items() >= pinned(LOCKS / "customer.txt").items()


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_bwrap
def test_the_customer_image_builds_and_its_entry_points_run(build: Build, tmp_path: Path) -> None:
    image = build.run("customer")
    assert image.entrypoint == ["/mcp-proxy"]
    assert not (image.root / "opt" / "qanat" / "bin" / "pip").exists()
    assert "qanat proxy" in run(image, "/mcp-proxy", "-version")
    assert "--output is required" in run(image, "/setup", "init", expect=2)
    assert "doctor" in run(image, "/qanat", "--help")
    native = "from qanat.net.process import is_compiled; print(is_compiled())"
    assert run(image, "/opt/qanat/bin/python", "-c", native) == "True\n"
    data = tmp_path / "data"
    data.mkdir(mode=0o777)
    with tunnels_api() as api:
        printed = run(
            image,
            *("/setup", "init", f"--api-url={api.url}", "--output=dir:/data", "--token-version=1"),
            __data=("bind", data),
        )
    assert "ready: tnl_" in printed
    old = (data / "tls.crt").read_bytes()
    run(image, "/setup", "renew-cert", "--output=dir:/data", network=False, __data=("bind", data))
    assert (data / "tls.crt").read_bytes() != old


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_bwrap
def test_the_proxy_serves_in_the_image_and_the_healthcheck_sees_it(build: Build, tmp_path: Path) -> None:
    image = build.run("customer")
    ca = throwaway_ca()
    server = throwaway_server(ca)
    (tmp_path / "tls.crt").write_bytes(server.certificate_pem)
    (tmp_path / "tls.key").write_bytes(server.key_pem)
    config = [
        "listen_addr: 127.0.0.1:8080",  # of a network of its own
        f"tunnel_domain: {DOMAIN}",
        "tls: {cert_file: /etc/mcp-gateway/tls.crt, key_file: /etc/mcp-gateway/tls.key}",
        "routes: {tickets: http://10.0.0.1:8080}",
    ]
    (tmp_path / "config.yaml").write_text("\n".join(config))
    mounts = {"/etc/mcp-gateway": ("ro-bind", tmp_path)}
    script = (
        "import subprocess, sys, time\n"
        "proxy = subprocess.Popen(['/mcp-proxy'])\n"
        "ready = [sys.exit(proxy.wait()) if proxy.poll() is not None else time.sleep(0.1)"
        " for _ in iter(lambda: subprocess.run(['/mcp-proxy', '-healthcheck']).returncode, 0)]\n"
        "proxy.terminate()\n"
        "sys.exit(proxy.wait(20))\n"
    )
    done = subprocess.run(
        [*sandbox(image, network=False, mounts=mounts), "/opt/qanat/bin/python", "-c", script],
        env={"PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ready" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_bwrap
def test_the_operator_image_builds_and_its_parts_start(build: Build, tmp_path: Path) -> None:
    image = build.run("operator")
    assert image.entrypoint == ["/qanat"]
    for part in ("edge", "control", "gateway"):
        assert "Usage" in run(image, "/qanat", part, "--help")
    made = tmp_path / "pki"
    made.mkdir(mode=0o777)
    run(image, "/qanat", "edge", "pki", "--directory=/pki", "--base-domain=tunnel.example.net", __pki=("bind", made))
    assert any(made.iterdir())
    (temporary := tmp_path / "tmp").mkdir(mode=0o777)
    shown = run(image, "/qanat", "dev", "--once", network=False, __tmp=("bind", temporary))
    assert "tickets" in shown  # the all-in-one trial: the whole tunnel, and a request through it
    assert "refused" in run(image, "/healthcheck", "http://127.0.0.1:1/healthz", expect=1)
