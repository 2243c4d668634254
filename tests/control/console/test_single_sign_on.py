"""Single sign-on against a provider that a test makes say anything: who gets in, and what is refused and why."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest

from tests.support.console import text_of
from tests.support.control import ControlThread, SteppedClock, control_config, plain_client, recorded_logs
from tests.support.openid_stub import CLIENT_SECRET, OpenIDStub, Visitor, openid_stub
from tests.support.requirements import requirement

StartControl = Callable[..., ControlThread]


@pytest.fixture(scope="module")
def stub() -> Iterator[OpenIDStub]:
    with openid_stub() as running:
        yield running


@pytest.fixture(scope="module")
def console(stub: OpenIDStub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlThread]:
    settings = stub.settings(email_domains=["corp.example"])
    config = control_config(tmp_path_factory.mktemp("sso"), console={"single_sign_on": settings})
    with ControlThread(config) as thread:
        yield thread


@pytest.fixture
def own_stub() -> Iterator[OpenIDStub]:
    """For tests that change what a provider publishes."""
    with openid_stub() as running:
        yield running


@pytest.fixture
def visitor(stub: OpenIDStub, console: ControlThread) -> Iterator[Visitor]:
    fresh = OpenIDStub()
    for name in ("claims", "document", "userinfo", "token_answer", "down"):
        setattr(stub, name, getattr(fresh, name))
    visitor = Visitor(console.url, stub)
    yield visitor
    visitor.client.close()


ADA = {"groups": ["staff", "tunnel-admins"], "email": "ada@corp.example", "email_verified": True}
EVE = {"groups": ["staff"], "email": "eve@corp.example", "email_verified": True}


@requirement("console:oidc")
def test_a_group_makes_a_manager_and_another_one_a_viewer(visitor: Visitor, console: ControlThread) -> None:
    answer = visitor.sign_in(ADA)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/tunnels")
    page = visitor.client.get("/console/tunnels")
    assert "ada@corp.example" in page.text
    assert 'href="#create"' in page.text
    looking = Visitor(console.url, visitor.stub)
    looking.sign_in(EVE)
    page = looking.client.get("/console/tunnels")
    assert "read-only" in text_of(page)
    csrf = page.text.split('name="csrf" value="')[1][:64]
    assert looking.client.post("/console/tunnels", data={"csrf": csrf, "name": "x"}).status_code == 403


@requirement("console:oidc")
def test_every_sign_in_is_in_the_audit_trail_and_a_refused_one_too(visitor: Visitor, console: ControlThread) -> None:
    assert (
        visitor.sign_in({**ADA, "sub": "stranger", "groups": ["cooks"], "email": "kim@corp.example"}).status_code == 403
    )
    visitor.sign_in(ADA)
    trail = text_of(visitor.client.get("/console/audit"))
    assert "ada@corp.example session console.sign_in " in trail
    assert "kim@corp.example session console.sign_in_refused" in trail
    rows = console.run(console.dump())["audit"]
    assert any(row[-1] == {"role": "manager", "issuer": visitor.stub.issuer, "subject": "u-1"} for row in rows)


def test_the_code_is_redeemed_with_the_verifier_of_its_challenge_and_the_secret_in_a_header(visitor: Visitor) -> None:
    visitor.stub.claims = ADA
    asked = visitor.depart()
    assert (asked["code_challenge_method"], asked["scope"]) == ("S256", "openid profile email")
    visitor.arrive(state=asked["state"], code="a-code")
    form = visitor.stub.forms[-1]
    challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
    assert challenge.decode() == asked["code_challenge"]
    assert (form["code"], form["redirect_uri"]) == ("a-code", asked["redirect_uri"])
    assert "client_secret" not in form
    assert base64.b64decode(visitor.stub.authorization.removeprefix("Basic ")).decode() == f"console:{CLIENT_SECRET}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "methods", "sent"),
    [
        ({}, ["client_secret_post"], {"client_id": "console", "client_secret": CLIENT_SECRET}),
        ({"client_secret": None}, ["none"], {"client_id": "console"}),
    ],
)
def test_a_client_shows_its_secret_as_the_provider_wants_it(
    own_stub: OpenIDStub,
    start_control: StartControl,
    settings: dict[str, Any],
    methods: list[str],
    sent: dict[str, str],
) -> None:
    own_stub.document = {"token_endpoint_auth_methods_supported": methods}
    visitor = Visitor(start_control({"console": {"single_sign_on": own_stub.settings(**settings)}}).url, own_stub)
    assert visitor.sign_in(ADA).status_code == 303
    form = own_stub.forms[-1]
    assert {name: form[name] for name in ("client_id", "client_secret") if name in form} == sent
    assert own_stub.authorization == ""


@pytest.mark.parametrize("kid", ["k1", None])
def test_an_only_key_needs_no_name(own_stub: OpenIDStub, start_control: StartControl, kid: str | None) -> None:
    stub = own_stub
    stub.kid = kid  # type: ignore[assignment]
    visitor = Visitor(start_control({"console": {"single_sign_on": stub.settings()}}).url, stub)
    stub.claims = ADA
    state, now = visitor.depart()["state"], int(time.time())
    claims = {"iss": stub.issuer, "aud": "console", "sub": "u-1", "nonce": stub.nonce, "iat": now, "exp": now + 60}
    stub.token_answer = (200, json.dumps({"id_token": jwt.encode({**claims, **ADA}, stub.key, "ES256")}).encode())
    assert visitor.arrive(state=state, code="a-code").status_code == 303


def test_what_the_id_token_leaves_out_is_taken_from_the_userinfo_of_the_same_person(visitor: Visitor) -> None:
    visitor.stub.userinfo = {"sub": "u-1", **ADA}
    assert visitor.sign_in({}).status_code == 303
    assert visitor.stub.authorization == "Bearer stub-access-token"
    visitor.stub.userinfo = {"sub": "u-2", **ADA}
    assert visitor.sign_in({}).status_code == 403


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"nonce": "another"}, "does not belong to this sign-in"),
        ({"nonce": None}, "does not belong to this sign-in"),
        ({"nonce": 7}, "does not belong to this sign-in"),
        ({"nonce": "\ud800"}, "does not belong to this sign-in"),
        ({"iss": "http://evil.example"}, "of another issuer"),
        ({"aud": "another-app"}, "meant for another application"),
        ({"aud": ["console", "another-app"]}, "meant for another application"),
        ({"aud": ["console", "x"], "azp": "another-app"}, "meant for another application"),
        ({"exp": int(time.time()) - 60}, "has expired"),
        ({"iat": int(time.time()) + 600}, "from the future"),
        ({"exp": 2**45, "sub": None}, "names nobody"),
        ({"sub": None}, "names nobody"),
        ({"sub": "a\0b"}, "names nobody"),
        ({"groups": []}, "tells no groups"),
        ({"groups": None}, "tells no groups"),
        ({"groups": {"tunnel-admins": 1}}, "tells no groups"),
        ({"groups": ["Tunnel-Admins"]}, "names no group that opens this console"),
        ({"email": "ada@evil.example"}, "does not take e-mail addresses of evil.example"),
        ({"email": "ada@corp.example@evil.example"}, "no verified e-mail"),
        ({"email_verified": False}, "no verified e-mail"),
    ],
)
@requirement("console:oidc:refused")
def test_a_wrong_id_token_opens_nothing_and_its_page_says_why(
    visitor: Visitor, claims: dict[str, Any], said: str
) -> None:
    answer = visitor.sign_in({**ADA, **claims})
    assert answer.status_code == 403
    assert said in text_of(answer)
    assert "qanat" not in visitor.client.cookies
    assert visitor.client.get("/console/tunnels").status_code == 303


def test_several_audiences_are_fine_when_the_token_was_made_for_us(visitor: Visitor) -> None:
    assert visitor.sign_in({**ADA, "aud": ["console", "x"], "azp": "console"}).status_code == 303


@pytest.mark.parametrize("forge", ["none", "HS256", "other key", "no jwt"])
@requirement("console:oidc:refused")
def test_a_token_that_the_provider_did_not_sign_opens_nothing(visitor: Visitor, forge: str) -> None:
    stub = visitor.stub
    stub.claims = ADA
    asked = visitor.depart()
    now = int(time.time())
    claims = {"iss": stub.issuer, "aud": "console", "sub": "u-1", "nonce": stub.nonce, "iat": now, "exp": now + 60}
    header = {"kid": stub.kid}
    forged = {
        "none": jwt.encode(claims, "", "none", header),
        "HS256": jwt.encode(claims, CLIENT_SECRET * 2, "HS256", header),
        "other key": jwt.encode(claims, OpenIDStub().key, "ES256", header),
        "no jwt": "hello",
    }[forge]
    stub.token_answer = (200, json.dumps({"id_token": forged}).encode())
    assert visitor.arrive(state=asked["state"], code="a-code").status_code == 403


@requirement("console:oidc:refused")
def test_an_answer_to_no_sign_in_of_this_browser_is_refused(visitor: Visitor, console: ControlThread) -> None:
    visitor.stub.claims = ADA
    asked = visitor.depart()
    assert "begun in another browser" in text_of(visitor.arrive(state="guess", code="a-code"))
    assert visitor.arrive(state=asked["state"], error="access_denied").status_code == 403
    assert visitor.arrive(state=asked["state"], code="a-code").status_code == 403, "an attempt is spent by a failure"
    stranger = Visitor(console.url, visitor.stub)
    assert stranger.arrive(state=visitor.depart()["state"], code="a-code").status_code == 403
    for kept in ("", "x", "%", base64.urlsafe_b64encode(b"\0" * 64).decode()):
        name = f"qanat-attempt-{hashlib.sha256(b'x').hexdigest()[:16]}"
        with plain_client(base_url=console.url, headers={"cookie": f"{name}={kept}"}) as client:
            assert client.get("/console/sign-in/callback?state=x&code=y").status_code == 403


def attempts(visitor: Visitor) -> list[tuple[str, str]]:
    """The cookies of sign-ins under way."""
    return [(name, kept) for name, kept in visitor.client.cookies.items() if "-attempt-" in name]


def test_two_tabs_that_sign_in_at_once_both_get_in(visitor: Visitor) -> None:
    visitor.stub.claims = ADA
    first, second = visitor.depart("/console/audit"), visitor.depart("/console/keys")
    for asked, page in ((first, "/console/audit"), (second, "/console/keys")):
        visitor.stub.nonce = asked["nonce"]
        answer = visitor.arrive(state=asked["state"], code="a-code")
        assert (answer.status_code, answer.headers["location"]) == (303, page)
    assert attempts(visitor) == []


@requirement("console:oidc:refused")
def test_what_one_tab_keeps_is_no_good_for_the_state_of_another(visitor: Visitor, console: ControlThread) -> None:
    visitor.stub.claims = ADA
    mine, theirs = visitor.depart(), Visitor(console.url, visitor.stub).depart()
    [(name, kept)] = attempts(visitor)
    labels = [hashlib.sha256(asked["state"].encode()).hexdigest()[:16] for asked in (mine, theirs)]
    other = name.replace(labels[0], labels[1])
    assert other != name
    with plain_client(base_url=console.url, headers={"cookie": f"{other}={kept}"}) as client:
        answer = client.get("/console/sign-in/callback", params={"state": theirs["state"], "code": "a-code"})
    assert answer.status_code == 403
    assert "begun in another browser" in text_of(answer)


def test_a_browser_keeps_a_few_sign_ins_and_forgets_the_oldest(visitor: Visitor) -> None:
    visitor.stub.claims = ADA
    states = [visitor.depart()["state"] for _ in range(7)]
    assert len(attempts(visitor)) == 5
    assert visitor.arrive(state=states[0], code="a-code").status_code == 403
    assert visitor.arrive(state=states[-1], code="a-code").status_code == 303


@requirement("console:oidc:refused")
def test_a_code_is_good_for_one_sign_in(visitor: Visitor) -> None:
    visitor.stub.claims = ADA
    state = visitor.depart()["state"]
    assert visitor.arrive(state=state, code="a-code").status_code == 303
    assert visitor.arrive(state=state, code="a-code").status_code == 403


@pytest.mark.slow
@pytest.mark.parametrize("named", [None, "http://evil.example"])
def test_a_provider_that_names_itself_must_be_the_one_asked(
    own_stub: OpenIDStub, start_control: StartControl, named: str | None
) -> None:
    own_stub.document = {"authorization_response_iss_parameter_supported": True}
    control = start_control({"console": {"single_sign_on": own_stub.settings()}})
    visitor = Visitor(control.url, own_stub)
    own_stub.claims = ADA
    state = visitor.depart()["state"]
    wrong = visitor.arrive(state=state, code="c", **({"iss": named} if named else {}))
    assert "from another provider" in text_of(wrong)
    state = visitor.depart()["state"]
    assert visitor.arrive(state=state, code="c", iss=own_stub.issuer).status_code == 303


@requirement("console:escape")
def test_what_the_provider_says_is_shown_never_run(visitor: Visitor) -> None:
    asked = visitor.depart()
    planted = "<script>alert(1)</script>"
    answer = visitor.arrive(state=asked["state"], error="access_denied", error_description=planted)
    assert answer.status_code == 403
    assert planted not in answer.text
    assert f"access_denied: {planted}" in text_of(answer).replace("&lt;", "<") or "alert(1)" in answer.text
    page = visitor.sign_in({**ADA, "email": f"{planted}@corp.example"})
    assert page.status_code == 303, text_of(page)
    assert planted not in visitor.client.get("/console/tunnels").text


def test_a_refused_code_names_the_fix_and_no_secret_is_logged(visitor: Visitor) -> None:
    visitor.stub.token_answer = (401, b'{"error": "invalid_client"}')
    with recorded_logs() as recorder:
        answer = visitor.sign_in(ADA)
    assert "invalid_client: look at single_sign_on.client_id" in text_of(answer)
    text = "\n".join(recorder.lines)
    assert "sign-in refused" in text
    assert CLIENT_SECRET not in text
    for body in (b"<html>", b"[]", b"x" * (2 << 20)):
        visitor.stub.token_answer = (200, body)
        assert visitor.sign_in(ADA).status_code == 502


@requirement("console:fixation")
def test_a_sign_in_never_keeps_a_session_and_ends_the_one_before(visitor: Visitor, console: ControlThread) -> None:
    visitor.sign_in(ADA)
    before = visitor.client.cookies["qanat"]
    visitor.sign_in(ADA)
    assert visitor.client.cookies["qanat"] != before
    with plain_client(base_url=console.url, cookies={"qanat": before}) as other:
        assert other.get("/console/tunnels").status_code == 303
    planted = Visitor(console.url, visitor.stub)
    state = visitor.depart()["state"]
    [(name, kept)] = attempts(visitor)
    planted.client.headers["cookie"] = f"qanat=planted; {name}={kept}"
    answer = planted.arrive(state=state, code="a-code")
    assert answer.status_code == 303
    assert "planted" not in str(answer.headers.get_list("set-cookie"))


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example", "//evil.example", "/\\evil.example", "/console//evil.example", "/console/../evil",
        "/console/%2e%2e/x", "/v1/tunnels", "javascript:alert(1)", "/console/\r\nx: y", "/console.evil/",
        "/console/" + "a" * 600,
    ],
)  # fmt: skip
@requirement("console:redirect")
def test_only_a_page_of_this_console_is_returned_to(visitor: Visitor, console: ControlThread, target: str) -> None:
    assert visitor.sign_in(ADA, target).headers["location"] == "/console/tunnels"
    form = visitor.client.get("/console/sign-in", params={"return_to": target})
    assert "return_to" not in form.text
    data = {"credential": console.new_tenant().operator, "return_to": target}
    assert visitor.client.post("/console/sign-in", data=data).headers["location"] == "/console/tunnels"


@requirement("console:redirect")
def test_whoever_was_on_the_way_somewhere_arrives_there(visitor: Visitor, console: ControlThread) -> None:
    away = visitor.client.get("/console/audit?target=tnl_01x")
    assert away.headers["location"] == "/console/sign-in?return_to=/console/audit%3Ftarget%3Dtnl_01x"
    page = visitor.client.get(away.headers["location"]).text
    assert 'href="/console/sign-in/provider?return_to=/console/audit%3Ftarget%3Dtnl_01x"' in page
    assert visitor.sign_in(ADA, "/console/audit?target=tnl_01x").headers["location"] == "/console/audit?target=tnl_01x"
    data = {"credential": console.new_tenant().operator, "return_to": "/console/keys"}
    assert visitor.client.post("/console/sign-in", data=data).headers["location"] == "/console/keys"


@requirement("console:oidc:logout")
def test_signing_out_ends_the_session_and_offers_to_leave_the_provider(visitor: Visitor) -> None:
    visitor.sign_in(ADA)
    cookie = visitor.client.cookies["qanat"]
    csrf = visitor.client.get("/console/tunnels").text.split('name="csrf" value="')[1][:64]
    answer = visitor.client.post("/console/sign-out", data={"csrf": csrf})
    assert answer.status_code == 200
    assert f'href="{visitor.stub.issuer}/end_session?client_id=console&amp;' in answer.text.replace(
        "/bye", "/end_session"
    )
    assert "id_token_hint=ey" in answer.text
    with plain_client(base_url=visitor.url, cookies={"qanat": cookie}) as client:
        assert client.get("/console/tunnels").status_code == 303


@pytest.mark.slow
def test_the_providers_documents_are_kept_and_its_new_keys_found(
    own_stub: OpenIDStub, start_control: StartControl
) -> None:
    stub, clock = own_stub, SteppedClock()
    control = start_control({"console": {"single_sign_on": stub.settings()}}, clock=clock)
    visitor = Visitor(control.url, stub)
    stub.asked.clear()
    for _ in range(3):
        assert visitor.sign_in(ADA).status_code == 303
    assert stub.asked.count("GET /jwks") == stub.asked.count("GET /.well-known/openid-configuration") == 1
    stub.rotate("k2")
    assert "does not publish" in text_of(visitor.sign_in(ADA)), "asked again once a minute only"
    clock.advance(seconds=61)
    now = int(time.time()) + 61
    assert visitor.sign_in({**ADA, "iat": now, "exp": now + 60}).status_code == 303
    stub.down = True
    clock.advance(seconds=20 * 60)
    assert visitor.client.get("/console/sign-in/provider").status_code == 303, "what was known still leads there"
    clock.advance(hours=25)
    answer = visitor.client.get("/console/sign-in/provider")
    assert (answer.status_code, "answered with status 503" in text_of(answer)) == (502, True)


@pytest.mark.slow
@requirement("console:oidc:down")
@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"issuer": "http://evil.example"}, "calls itself by another name"),
        ({"token_endpoint": None}, "has no token_endpoint"),
        ({"jwks_uri": "http://169.254.169.254/keys"}, "url must use https scheme"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "must be an absolute url"),
        ({"token_endpoint_auth_methods_supported": 5, "jwks_uri": "http://169.254.169.254/keys"}, "must use https"),
    ],
)
def test_a_provider_that_makes_no_sense_is_named_on_the_page(
    own_stub: OpenIDStub, start_control: StartControl, document: dict[str, Any], said: str
) -> None:
    control = start_control({"console": {"single_sign_on": own_stub.settings()}})
    own_stub.document = document
    answer = Visitor(control.url, own_stub).client.get("/console/sign-in/provider")
    assert answer.status_code == 502
    assert said in text_of(answer)
    assert "single_sign_on.issuer" in text_of(answer)
    assert "location" not in answer.headers


@pytest.mark.slow
def test_private_addresses_are_not_asked_unless_the_policy_says_so(
    stub: OpenIDStub, start_control: StartControl
) -> None:
    control = start_control({"console": {"single_sign_on": stub.settings(fetch_policy={})}})
    asked = len(stub.asked)
    assert Visitor(control.url, stub).client.get("/console/sign-in/provider").status_code == 502
    assert len(stub.asked) == asked


@pytest.mark.slow
@requirement("console:oidc:local")
def test_the_operators_way_in_can_be_switched_off_and_its_sessions_end(
    stub: OpenIDStub, start_control: StartControl
) -> None:
    settings = {"console": {"single_sign_on": stub.settings()}}
    first = start_control(settings)
    credential = first.server.credential.get_secret_value()
    with plain_client(base_url=first.url) as client:
        client.post("/console/sign-in", data={"credential": credential})
        cookie = client.cookies["qanat"]
        assert client.get("/console/tunnels").status_code == 200
    data_dir, url = first.operations.context.config.data_dir, first.operations.context.config.database_url
    second = start_control(
        {"data_dir": data_dir, "database_url": url, "console": {**settings["console"], "operator_sign_in": False}}
    )
    with plain_client(base_url=second.url, cookies={"qanat": cookie}) as client:
        assert client.get("/console/tunnels").status_code == 303
        assert "Operator credential" not in client.get("/console/sign-in").text
        assert client.post("/console/sign-in", data={"credential": credential}).status_code == 403


@pytest.mark.slow
def test_a_session_of_a_provider_ends_when_another_one_is_configured(
    stub: OpenIDStub, start_control: StartControl
) -> None:
    first = start_control({"console": {"single_sign_on": stub.settings()}})
    visitor = Visitor(first.url, stub)
    visitor.sign_in(ADA)
    config = first.operations.context.config
    second = start_control({"data_dir": config.data_dir, "database_url": config.database_url})
    with plain_client(base_url=second.url, cookies=dict(visitor.client.cookies)) as client:
        assert client.get("/console/tunnels").status_code == 303
    assert visitor.client.get("/console/tunnels").status_code == 200


def test_without_single_sign_on_there_is_no_such_page(control: ControlThread) -> None:
    with plain_client(base_url=control.url) as client:
        assert client.get("/console/sign-in/provider").status_code == 404
        assert client.get("/console/sign-in/callback?state=x&code=y").status_code == 404


@requirement("console:limits")
def test_an_address_that_tries_too_often_has_to_wait(start_control: StartControl) -> None:
    control = start_control({"limits": {"sign_ins_per_minute": 2}})
    with plain_client(base_url=control.url) as client:
        statuses = [client.post("/console/sign-in", data={"credential": "guess"}).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]
