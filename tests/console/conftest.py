"""One stack and one browser for all of these tests; each test gets a browser profile of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from qanat.dev.request import ask, example_request
from tests.support.browser import PATIENCE, ConsoleBrowser, console_browser
from tests.support.stack import running_stack

SCRIPT = pytest.mark.parametrize("page", [True, False], ids=["script", "no-script"], indirect=True)


@pytest.fixture(scope="package")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleBrowser]:
    expect.set_options(timeout=PATIENCE)
    with running_stack(tmp_path_factory.mktemp("stack")) as running, console_browser(running) as console:
        yield console


@pytest.fixture(scope="package")
def called(console: ConsoleBrowser) -> None:
    """A call has gone through the live tunnel and is told of: its page has everything to show."""
    stack = console.running.stack
    console.running.run(ask(stack, example_request(stack, "qanat-demo")))
    with console.page() as page:
        page.goto(f"{console.url}/tunnels/{stack.tunnel_id}")
        expect(page.get_by_role("region", name="Last calls")).to_contain_text("tools/call")
        expect(page.get_by_role("region", name="Routes").get_by_text("up", exact=True)).to_be_visible()


@pytest.fixture
def page(console: ConsoleBrowser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Somebody who may manage, at the list of tunnels; by `SCRIPT` also with script turned off."""
    with console.page(script=getattr(request, "param", True)) as page:
        yield page


@pytest.fixture
def tunnel(console: ConsoleBrowser) -> Iterator[str]:
    """The id of a tunnel that nobody has connected; whatever tunnels a test leaves are archived after it."""
    yield console.new_tunnel("staging")
    console.archive_all_but_the_live_one()
