"""The OpenAPI document against the server, by Schemathesis: nothing undocumented, no internal error."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.control import Tenant

EXCLUDED = "positive_data_acceptance"
"""A document cannot say which ids exist or which PEM is a CA: a well-formed request may well be a 400."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_document_holds_under_fire(tenant: Tenant, tmp_path: Path) -> None:
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program is not None
    options = ["--max-examples", "20", "--seed", "7", "--no-color", "--exclude-checks", EXCLUDED]
    credential = ["-H", f"Authorization: Bearer {tenant.operator}"]
    done = subprocess.run(
        [program, "run", f"{tenant.url}/openapi.json", *options, *credential],
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "unresolvable reference" not in done.stdout


def test_every_public_path_is_described(tenant: Tenant) -> None:
    with tenant.bare() as http:
        document = http.get("/openapi.json").json()
    paths = document["paths"]
    assert sorted(paths["/v1/tunnels"]) == ["get", "post"]
    assert not any(path.startswith("/internal") for path in paths)
    required = [item["name"] for item in paths["/v1/tunnels"]["get"]["parameters"] if item["required"]]
    assert required == ["anthropic-version", "anthropic-beta"]
    assert set(paths["/v1/tunnels"]["post"]["responses"]) == {"200", "default"}
    assert "ca_certificate_pem" in str(paths["/v1/tunnels/{tunnel_id}/certificates"]["post"]["requestBody"])
