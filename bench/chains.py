"""The candidates: each starts its processes and says how to reach the upstream through them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ground import DOMAIN, HOST, Ground, Processes, free_port
from bench.load import Target
from bench.native import SOURCES

WORKERS = min(len(os.sched_getaffinity(0)), 4)
"""How many processes `join` runs: of the four connections that a connector keeps, each needs one."""


@dataclass
class Chain:
    """A chain that is up. `counted` are the processes whose cost is the chain's, by role; never the upstream."""

    name: str
    target: Target
    processes: Processes
    counted: dict[str, int]
    programs: Path = SOURCES
    """Where the load is run from."""
    upstream: int = 0
    """The process id of the upstream, to see that it is not what is measured."""


@dataclass
class Builder:
    """Builds chains on one ground."""

    ground: Ground
    programs: Path
    upstream_port: int
    tunnels: int = 10
    upstream: int = 0
    """The upstream's process id."""
    connections: int = 4
    """How many a connector keeps: each carries 250 streams of stock cloudflared's, 1,000 of ours."""

    def build(self, name: str, label: str = "") -> Chain:
        """Start a chain; `label` tells those of one name apart that stand at once. Raises `ChainFailed`."""
        label = label or name
        logs = self.ground.directory / label
        logs.mkdir(exist_ok=True)
        processes = Processes(logs)
        try:
            chain = CHAINS[name].build(self, label, processes)
            chain.name = name
            chain.programs, chain.upstream = self.programs, self.upstream
            return chain
        except BaseException:
            processes.stop()
            raise

    # The tunnel, three ways.

    def join(self, name: str, processes: Processes) -> Chain:
        """Ours, connector and proxy in one process; of such processes as many as there are cores."""
        edge, connectors, clients = self._edge(processes)
        joined = self._join(name, processes, connectors, WORKERS)
        return Chain(name, self._through_edge(clients), processes, {"edge": edge, "join": joined})

    def single(self, name: str, processes: Processes) -> Chain:
        """The same with a single one."""
        edge, connectors, clients = self._edge(processes)
        joined = self._join(name, processes, connectors, 1)
        return Chain(name, self._through_edge(clients), processes, {"edge": edge, "join": joined})

    def apart(self, name: str, processes: Processes) -> Chain:
        """Ours, connector and proxy apart."""
        edge, connectors, clients = self._edge(processes)
        proxy, port = self._start_proxy(processes)
        config = {**self._connector(connectors), "url": f"http://127.0.0.1:{port}"}
        path = self.ground.file(f"{name}.yaml", json.dumps(config))
        connector = processes.python("connector", "-m", "qanat", "connector", "run", "--config", str(path))
        processes.wait_for_log("connector", "Registered tunnel connection", self.connections)
        return Chain(
            name, self._through_edge(clients), processes, {"edge": edge, "connector": connector, "proxy": proxy}
        )

    def cloudflared(self, name: str, processes: Processes) -> Chain:
        """Our edge and proxy, stock cloudflared between them."""
        edge, connectors, clients = self._edge(processes)
        proxy, port = self._start_proxy(processes)
        connector = processes.start(
            "cloudflared",
            os.environ["QANAT_CLOUDFLARED"],
            "tunnel",
            "--no-autoupdate",
            "--ha-connections",
            str(self.connections),
            "run",
            "--url",
            f"http://127.0.0.1:{port}",
            env={
                "TUNNEL_TOKEN": self.ground.file("tunnel-token").read_text(),
                "TUNNEL_EDGE": ",".join([f"127.0.0.1:{connectors}"] * self.connections),
                "TUNNEL_CACERT": str(self.ground.pki("connector-listener-ca.pem")),
                "TUNNEL_TRANSPORT_PROTOCOL": "http2",
                "TUNNEL_NO_PRECHECKS": "true",
                "TUNNEL_METRICS": f"127.0.0.1:{free_port()}",
            },
        )
        processes.wait_for_log("cloudflared", "Registered tunnel connection", self.connections)
        return Chain(
            name, self._through_edge(clients), processes, {"edge": edge, "connector": connector, "proxy": proxy}
        )

    def relay(self, name: str, processes: Processes) -> Chain:
        """`join` on one edge node of two, and the client at the other."""
        port = free_port()
        redis = processes.start("redis", "redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "")
        processes.wait_for_port("redis", port)
        home, connectors, _ = self._edge(processes, "home", port)
        away, _, clients = self._edge(processes, "away", port)
        joined = self._join(name, processes, connectors, WORKERS)
        counted = {"home": home, "away": away, "join": joined, "redis": redis}
        return Chain(name, self._through_edge(clients), processes, counted)

    # The neighbours.

    def direct(self, name: str, processes: Processes) -> Chain:
        """No chain at all."""
        return Chain(name, Target(self.upstream_port, HOST, ()), processes, {})

    def proxy(self, name: str, processes: Processes) -> Chain:
        """Our proxy alone: WebSocket, inner TLS, HTTP."""
        proxy, port = self._start_proxy(processes)
        return Chain(name, self._inner(port, ("websocket", "inner")), processes, {"proxy": proxy})

    def nginx(self, name: str, processes: Processes) -> Chain:
        """nginx as the proxy alone: TLS, HTTP. It has no WebSocket to take apart."""
        port, prefix = free_port(), self.ground.directory / name
        path = self.ground.file("nginx.conf", _nginx(port, self.upstream_port, self.ground.directory))
        pid = processes.start("nginx", "nginx", "-p", str(prefix), "-c", str(path))
        processes.wait_for_port("nginx", port)
        return Chain(name, self._inner(port, ("inner",)), processes, {"nginx": pid})

    def haproxy(self, name: str, processes: Processes) -> Chain:
        """haproxy twice: the first ends outer TLS, the second inner TLS."""
        port, second = free_port(), free_port()
        path = self.ground.file("haproxy.cfg", _haproxy(port, second, self.upstream_port, self.ground))
        pid = processes.start("haproxy", "haproxy", "-f", str(path))
        processes.wait_for_port("haproxy", port)
        target = self._inner(port, ("outer", "inner"))
        return Chain(name, target, processes, {"haproxy": pid})

    def ssh(self, name: str, processes: Processes) -> Chain:
        """`ssh -R` from the private side, with our proxy behind it."""
        proxy, port = self._start_proxy(processes)
        listen, sshd_port, directory = free_port(), free_port(), self.ground.directory / name
        pids = _start_ssh(processes, directory, sshd_port, listen, port)
        return Chain(
            name,
            self._inner(listen, ("websocket", "inner")),
            processes,
            {"proxy": proxy, "sshd": pids[0], "ssh": pids[1]},
        )

    # Pieces.

    def _edge(self, processes: Processes, name: str = "edge", redis: int = 0) -> tuple[int, int, int]:
        connectors, clients = free_port(), free_port()
        ground = self.ground
        edge: dict[str, Any] = {
            "name": name,
            "connectors": {
                "listen_addr": f"127.0.0.1:{connectors}",
                "tls": _files(ground.pki("connector-listener.pem"), ground.pki("connector-listener-key.pem")),
            },
            "clients": {
                "listen_addr": f"127.0.0.1:{clients}",
                "tls": _files(ground.pki("client-listener.pem"), ground.pki("client-listener-key.pem")),
                "client_ca_file": str(ground.pki("client-ca.pem")),
                "allowed_addresses": ["127.0.0.0/8"],
            },
            "client_organizations": [{"san": "gateway.bench.example", "organizations": ["org"]}],
            "limits": {"streams_per_tunnel": 10_000, "connections_per_client": 10_000},
        }
        if redis:
            edge["cluster"] = {
                "redis_url": f"redis://127.0.0.1:{redis}",
                "listen_addr": f"127.0.0.1:{free_port()}",
                "tls": _files(ground.pki("node.pem"), ground.pki("node-key.pem")),
                "ca_file": str(ground.pki("node-ca.pem")),
                "connections_per_connector": 4,
            }
        tunnel = {
            "uuid": str(ground.uuid),
            "account_tag": ground.account_tag,
            "secret": ground.secret.hex(),
            "domain": DOMAIN,
            "ca": ground.file("ca.crt").read_text(),
        }
        job = {"edge": edge, "tunnel": tunnel, "tunnels": self.tunnels}
        pid = processes.python(name, "-m", "bench.edge", job=job)
        processes.wait_for_log(name, "ready")
        return pid, connectors, clients

    def _join(self, name: str, processes: Processes, connectors: int, workers: int) -> int:
        config = {**self._proxy(free_port()), "connector": self._connector(connectors)}
        path = self.ground.file(f"{name}.yaml", json.dumps(config))
        pid = processes.python("join", "-m", "qanat", "join", "--config", str(path), "--workers", str(workers))
        processes.wait_for_log("join", "Registered tunnel connection", self.connections)
        return pid

    def _connector(self, port: int) -> dict[str, Any]:
        return {
            "token_file": str(self.ground.file("tunnel-token")),
            "edge": [f"127.0.0.1:{port}"] * self.connections,
            "ha_connections": self.connections,
            "cacert": str(self.ground.pki("connector-listener-ca.pem")),
            "protocol": "http2",
        }

    def _proxy(self, port: int) -> dict[str, Any]:
        return {
            "listen_addr": f"127.0.0.1:{port}",
            "tunnel_domain": DOMAIN,
            "tls": {
                "cert_file": str(self.ground.file("tls.crt")),
                "key_file": str(self.ground.file("tls.key")),
            },
            "routes": {"echo": f"http://127.0.0.1:{self.upstream_port}"},
            "upstream": {"allowed_ips": ["127.0.0.0/8"]},
            "limits": {"websockets": 10_000, "requests": 20_000, "upstream_sockets": 10_000},
        }

    def _start_proxy(self, processes: Processes) -> tuple[int, int]:
        port = free_port()
        path = self.ground.file(f"proxy-{port}.yaml", json.dumps(self._proxy(port)))
        pid = processes.python("proxy", "-m", "qanat", "proxy", "-config", str(path))
        processes.wait_for_port("proxy", port)
        return pid, port

    def _through_edge(self, port: int) -> Target:
        return self._inner(port, ("outer", "websocket", "inner"))

    def _inner(self, port: int, layers: tuple[str, ...]) -> Target:
        ground = self.ground
        return Target(
            port,
            HOST,
            layers,
            outer_name=DOMAIN,
            outer_ca=str(ground.pki("client-listener-ca.pem")),
            client_cert=str(ground.pki("client.pem")),
            client_key=str(ground.pki("client-key.pem")),
            inner_ca=str(ground.file("ca.crt")),
        )


@dataclass(frozen=True)
class Candidate:
    """A chain that could be measured here."""

    build: Callable[[Builder, str, Processes], Chain]
    needs: tuple[str, ...] = ()
    """Programs that must be installed; `$NAME` is an environment variable that names one."""

    @property
    def missing(self) -> list[str]:
        """What keeps it from being measured."""
        return [need for need in self.needs if not _present(need)]


def _present(need: str) -> bool:
    if need.startswith("$"):
        return bool(shutil.which(os.environ.get(need[1:], "")))
    return shutil.which(need, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is not None


CHAINS = {
    "join": Candidate(Builder.join),
    "single": Candidate(Builder.single),
    "apart": Candidate(Builder.apart),
    "cloudflared": Candidate(Builder.cloudflared, ("$QANAT_CLOUDFLARED",)),
    "relay": Candidate(Builder.relay, ("redis-server",)),
    "ssh": Candidate(Builder.ssh, ("ssh", "sshd", "ssh-keygen")),
    "haproxy": Candidate(Builder.haproxy, ("haproxy",)),
    "proxy": Candidate(Builder.proxy),
    "nginx": Candidate(Builder.nginx, ("nginx",)),
    "direct": Candidate(Builder.direct),
}


def _files(certificate: Path, key: Path) -> dict[str, str]:
    return {"certificate_file": str(certificate), "key_file": str(key)}


def _nginx(port: int, upstream: int, directory: Path) -> str:
    return f"""
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr error;
events {{ worker_connections 16384; }}
http {{
  access_log {directory}/nginx-access.log; keepalive_requests 10000000; client_max_body_size 0; proxy_buffering off;
  upstream mcp {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 10000000; }}
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {directory}/tls.crt; ssl_certificate_key {directory}/tls.key;
    ssl_protocols TLSv1.3; server_name {HOST};
    location / {{ proxy_pass http://mcp; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


def _haproxy(port: int, second: int, upstream: int, ground: Ground) -> str:
    return f"""
global
  nbthread 1
  maxconn 8000
defaults
  timeout connect 5s
  timeout client 300s
  timeout server 300s
frontend outer
  mode tcp
  bind 127.0.0.1:{port} ssl crt {ground.file("outer-both.pem")} ca-file {ground.pki("client-ca.pem")} verify required
  default_backend to_inner
backend to_inner
  mode tcp
  server inner 127.0.0.1:{second}
frontend inner
  mode http
  bind 127.0.0.1:{second} ssl crt {ground.file("tls-both.pem")}
  default_backend mcp
backend mcp
  mode http
  http-reuse always
  server mcp 127.0.0.1:{upstream}
"""


def _start_ssh(processes: Processes, directory: Path, sshd_port: int, listen: int, target: int) -> tuple[int, int]:
    for name in ("host", "user"):
        (directory / name).unlink(missing_ok=True)  # of the round before
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True)
    (directory / "authorized").write_text((directory / "user.pub").read_text())
    Path("/run/sshd").mkdir(exist_ok=True)
    (directory / "sshd_config").write_text(
        f"Port {sshd_port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\n"
        f"AuthorizedKeysFile {directory}/authorized\n"
        "StrictModes no\nPermitRootLogin prohibit-password\nPidFile none\nUsePAM no\nAllowTcpForwarding yes\n"
        "MaxSessions 10000\n"
    )
    sshd = processes.start(
        "sshd", shutil.which("sshd", path="/usr/sbin") or "sshd", "-D", "-e", "-f", str(directory / "sshd_config")
    )
    processes.wait_for_port("sshd", sshd_port)
    ssh = processes.start(
        "ssh", "ssh", "-N", "-p", str(sshd_port), "-i", str(directory / "user"), "-F", "none",
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ExitOnForwardFailure=yes",
        "-R", f"127.0.0.1:{listen}:127.0.0.1:{target}", "127.0.0.1",
    )  # fmt: skip
    processes.wait_for_port("ssh", listen)
    return sshd, ssh
