"""What is said when a part is missing, and what the edge can see when none is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qanat.dev.report import Witness, judge, measure, show_answer, show_hops
from qanat.dev.request import HopFailed, ask, example_request, find_failing_hop
from qanat.stack import PartFailed, Stack
from tests.support.requirements import requirement


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack(tmp_path) as stack:
        yield stack


@requirement("stack:hop")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "hop"),
    [
        ("gateway", "gateway"),
        ("edge", "edge"),
        ("connector", "connector"),
        ("proxy", "proxy"),
        ("samples", "upstream"),
    ],
)
async def test_the_error_names_the_part_that_is_missing(stack: Stack, part: str, hop: str) -> None:
    body = example_request(stack, "qanat-demo")
    await ask(stack, body)
    await stack.stop_part(part)
    with pytest.raises(HopFailed) as failure:
        await ask(stack, body)
    assert failure.value.hop == hop
    assert str(failure.value).startswith(f"{hop}: ")


@requirement("stack:hop")
@pytest.mark.slow
async def test_without_the_control_plane_known_callers_go_on_and_the_probe_names_it(stack: Stack) -> None:
    body = example_request(stack, "qanat-demo")
    await ask(stack, body)
    await stack.stop_part("control")
    assert (await ask(stack, body)).blocks("mcp_tool_result")
    failure = await find_failing_hop(stack)
    assert failure is not None
    assert failure.hop == "control"


@requirement("stack:hop")
async def test_a_part_that_cannot_start_is_named_and_the_others_are_stopped(tmp_path: Path) -> None:
    (tmp_path / "operator").mkdir()
    (tmp_path / "operator/client-ca.pem").write_text("taken")
    stack = Stack(tmp_path)
    with pytest.raises(PartFailed, match=r"operator certificates: .*exists already"):
        await stack.start()
    assert stack.running == ()


@requirement("stack:blind")
async def test_the_edge_relays_tls_records_and_can_read_nothing(stack: Stack) -> None:
    with Witness(stack) as witness:
        answer = await ask(stack, example_request(stack, "qanat-demo"))
        findings = judge(answer, witness, demo_model=True)
        assert [finding.sentence for finding in findings if not finding.held] == []
        assert (witness.edge.records() or 0) > 10
        assert any("TLS records and nothing else" in line for line in show_hops(answer, witness))
        assert any("Checkout returns 502" in line for line in show_answer(answer))
        times = measure(answer, witness)
    assert min(times.gateway, times.edge, times.proxy, times.upstream) >= 0
