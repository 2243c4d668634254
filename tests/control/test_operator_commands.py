"""What an operator does on the server: first start, backup and restore, another master key, break-glass."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text
from typer.testing import CliRunner

from qanat.cli import control as command
from qanat.control.config import ControlConfig
from qanat.control.operations import Operations
from qanat.control.operations.backup import BackupUnusable, back_up, restore
from qanat.control.operations.context import Actor
from qanat.control.operations.keyring import read_master_keys, write_master_keys
from qanat.control.operations.rotation import rotate_master_key
from qanat.control.server import open_database, open_operations
from qanat.control.store.tables import Table, TunnelRow
from qanat.control.store.vault import KEY_SIZE, Key, Vault
from qanat.errors import ConfigInvalid
from tests.control.test_certificates import make_ca
from tests.support.control import ControlThread, Tenant, control_config, recorded_logs
from tests.support.federation import ok
from tests.support.postgres import Postgres

pytestmark = pytest.mark.slow


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_first_start_makes_what_is_missing_and_later_ones_find_it(tmp_path: Path) -> None:
    config = control_config(tmp_path / "data")
    found = []
    for _ in range(2):
        async with open_operations(config) as (_operations, bootstrapped):
            found.append(bootstrapped)
    assert found[0].organization_id == found[1].organization_id
    for path in (config.master_key_path, config.bootstrap_path, config.data_dir / "control.db"):
        assert mode(path) == 0o600
    assert mode(config.data_dir) == 0o700
    assert "sk-ant" not in repr(found)


async def test_a_replaced_bootstrap_credential_retires_the_old_one(tmp_path: Path) -> None:
    config = control_config(tmp_path)
    async with open_operations(config) as (operations, first):
        assert first.credential is not None
        old = first.credential.get_secret_value()
        assert (await operations.authentication.identify(old)).operator
    config.bootstrap_path.write_text("sk-ant-oat01-" + "n" * 40)
    async with open_operations(config) as (operations, _):
        assert (await operations.authentication.identify("sk-ant-oat01-" + "n" * 40)).operator
        with pytest.raises(Exception, match="credential"):
            await operations.authentication.identify(old)
    async with open_operations(control_config(tmp_path, bootstrap={"enabled": False})) as (operations, found):
        assert found.credential is None
        with pytest.raises(Exception, match="credential"):
            await operations.authentication.identify("sk-ant-oat01-" + "n" * 40)


async def test_an_older_bootstrap_credential_may_come_back_unless_a_person_revoked_it(tmp_path: Path) -> None:
    config = control_config(tmp_path)
    old, new = "sk-ant-oat01-" + "o" * 40, "sk-ant-oat01-" + "n" * 40
    for credential, retired in ((old, new), (new, old), (old, new)):
        config.bootstrap_path.write_text(credential)
        async with open_operations(config) as (operations, _):
            assert (await operations.authentication.identify(credential)).operator
            with pytest.raises(Exception, match="credential"):
                await operations.authentication.identify(retired)
    async with open_operations(config) as (operations, found):
        credential_id = (await operations.authentication.identify(old)).credential_id
        await operations.keys.revoke_token(Actor("user_ada", "session", found.organization_id), credential_id)
    with recorded_logs() as logs:
        async with open_operations(config) as (operations, _):
            with pytest.raises(Exception, match="credential"):
                await operations.authentication.identify(old)
    assert any("bootstrap credential is revoked" in line for line in logs.lines)


@pytest.mark.parametrize("text", ["", "short", "with space" + "x" * 40])
async def test_a_poor_bootstrap_credential_stops_the_start(tmp_path: Path, text: str) -> None:
    config = control_config(tmp_path)
    config.bootstrap_path.write_text(text)
    with pytest.raises(ConfigInvalid, match="at least 32 characters"):
        async with open_operations(config):
            pass


def test_another_master_key_seals_everything_again_while_the_server_runs(
    start_control: Callable[..., ControlThread],
) -> None:
    control = start_control()
    context = control.operations.context
    with control.new_tenant().http() as http:
        id = ok(http.post("/v1/tunnels"))["id"]
        ok(http.post(f"/v1/tunnels/{id}/certificates", json={"ca_certificate_pem": make_ca()}))
        token = ok(http.post(f"/v1/tunnels/{id}/reveal_token"))
        path = context.config.master_key_path
        (before,) = read_master_keys(path)

        async def rotate_elsewhere() -> int:
            async with open_operations(context.config) as (operations, found):
                return (await rotate_master_key(operations.context, found.organization_id))[1]

        assert asyncio.run(rotate_elsewhere()) == 3  # the tunnel, its certificate, the cursor key
        (after,) = read_master_keys(path)
        assert before.id != after.id
        assert ok(http.post(f"/v1/tunnels/{id}/reveal_token")) == token
        assert ok(http.post(f"/v1/tunnels/{id}/rotate_token"))["id"] != token["id"]


async def opens_with(config: ControlConfig, **keys: Path) -> bool:
    """Whether every secret opens with these key files."""
    async with open_operations(config.model_copy(update={"next_master_key_file": None, **keys})) as (operations, _):
        context = operations.context
        async with context.database.read() as session:
            for row in (await session.scalars(select(TunnelRow))).all():
                await context.open(row.secret_sealed, f"tunnel {row.id}")
        return True


def test_a_master_key_of_mounted_files_is_rotated_without_writing_one(
    start_control: Callable[..., ControlThread], tmp_path: Path
) -> None:
    old, new = tmp_path / "mounted" / "master.key", tmp_path / "next" / "master.key"
    for path in (old, new):
        write_master_keys(path, [Key(os.urandom(KEY_SIZE))])
        path.chmod(0o400)
    before = old.read_bytes(), new.read_bytes()
    control = start_control(config={"master_key_file": old, "next_master_key_file": new})
    config = control.operations.context.config
    with control.new_tenant().http() as http:
        id = ok(http.post("/v1/tunnels"))["id"]
        token = ok(http.post(f"/v1/tunnels/{id}/reveal_token"))
        result = CliRunner().invoke(command.app, ["--config", str(written(config, tmp_path)), "rotate-master-key"])
        assert result.exit_code == 0, result.output
        assert str(new) in result.output
        assert ok(http.post(f"/v1/tunnels/{id}/reveal_token")) == token, "the one that runs goes on"
    assert (old.read_bytes(), new.read_bytes()) == before
    assert asyncio.run(opens_with(config, master_key_file=new))
    with pytest.raises(Exception, match="is not in the master key file"):
        asyncio.run(opens_with(config, master_key_file=old))


def written(config: ControlConfig, folder: Path) -> Path:
    """A configuration file that says the same of the store."""
    names = ("data_dir", "master_key_file", "next_master_key_file")
    settings = {name: str(getattr(config, name)) for name in names if getattr(config, name) is not None}
    if config.database_url is not None:
        settings["database_url"] = config.database_url.get_secret_value()
    path = folder / "control.yaml"
    path.write_text(json.dumps(settings))
    return path


async def test_a_rotation_that_cannot_work_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "a.key"
    write_master_keys(key, [Key(os.urandom(KEY_SIZE))])
    same = control_config(tmp_path, master_key_file=key, next_master_key_file=key)
    async with open_operations(same) as (operations, found):
        with pytest.raises(ConfigInvalid, match=r"next_master_key_file: .* holds a key that master_key_file has"):
            await rotate_master_key(operations.context, found.organization_id)
    alone = control_config(tmp_path, master_key_file=key)

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with open_operations(alone) as (operations, found):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            with pytest.raises(ConfigInvalid, match=r"cannot be written .* set next_master_key_file"):
                await rotate_master_key(operations.context, found.organization_id)


async def test_without_its_master_key_a_database_does_not_open(tmp_path: Path) -> None:
    config = control_config(tmp_path)
    async with open_operations(config):
        pass
    config.master_key_path.unlink()
    with pytest.raises(Exception, match="is not in the master key file"):
        async with open_operations(config):
            pass


async def rows(config: ControlConfig) -> dict[str, list[tuple[Any, ...]]]:
    async with open_database(config) as database, database.read() as session:
        found = {}
        for table in Table.metadata.sorted_tables:
            found[table.name] = sorted(map(tuple, (await session.execute(table.select())).all()), key=repr)
        return found


async def fill(config: ControlConfig) -> tuple[str, str]:
    """A tunnel with a certificate; its id and token."""
    async with open_operations(config) as (operations, found):
        tenant = Tenant(None, found.organization_id, found.default_workspace_id, "")  # type: ignore[arg-type]
        tunnel = await operations.tunnels.create(tenant.actor, "kept")
        await operations.certificates.create(tenant.actor, tunnel.id, make_ca())
        return tunnel.id, (await operations.tunnels.reveal_token(tenant.actor, tunnel.id)).id


async def check(config: ControlConfig, tunnel_id: str, token_id: str) -> None:
    async with open_operations(config) as (operations, found):
        tenant = Tenant(None, found.organization_id, found.default_workspace_id, "")  # type: ignore[arg-type]
        assert (await operations.tunnels.reveal_token(tenant.actor, tunnel_id)).id == token_id
        assert (await operations.tunnels.create(tenant.actor)).id != tunnel_id
        follower = operations.data_plane.follow(1, asyncio.Event())
        assert (await anext(follower)).kind == "reset"
        await follower.aclose()


async def test_a_backup_restores_every_row_into_an_empty_database(tmp_path: Path) -> None:
    config = control_config(tmp_path / "old")
    made = await fill(config)
    with (tmp_path / "backup").open("wb") as out:
        async with open_database(config) as database:
            await back_up(database, out)
    fresh = control_config(tmp_path / "new", master_key_file=config.master_key_path)
    async with open_database(fresh) as database:
        with (tmp_path / "backup").open("rb") as source:
            await restore(database, source, fresh.master_key_paths, Vault(bytes))
    before, after = await rows(config), await rows(fresh)
    for name in before.keys() - {"changes", "counters"}:
        assert before[name] == after[name], name
    await check(fresh, *made)
    async with open_database(fresh) as database:
        with pytest.raises(BackupUnusable, match="not empty"), (tmp_path / "backup").open("rb") as source:
            await restore(database, source, fresh.master_key_paths, Vault(bytes))


@pytest.mark.slow
async def test_a_backup_moves_between_sqlite_and_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    small = control_config(tmp_path / "old")
    made = await fill(small)
    key = small.master_key_path
    large = control_config(tmp_path / "large", master_key_file=key, database_url=postgres.new_database())
    back = control_config(tmp_path / "back", master_key_file=key)
    for source, target in ((small, large), (large, back)):
        with (tmp_path / target.data_dir.name).with_suffix(".backup").open("w+b") as file:
            async with open_database(source) as database:
                await back_up(database, file)
            file.seek(0)
            async with open_database(target) as database:
                await restore(database, file, [key], Vault(bytes))
    for config in (large, back):
        await check(config, *made)


@pytest.mark.parametrize("cut", [0, 10, -20])
async def test_a_damaged_backup_restores_nothing(tmp_path: Path, cut: int) -> None:
    config = control_config(tmp_path / "old")
    await fill(config)
    with (tmp_path / "backup").open("wb") as out:
        async with open_database(config) as database:
            await back_up(database, out)
    (tmp_path / "cut").write_bytes((tmp_path / "backup").read_bytes()[:cut])
    fresh = control_config(tmp_path / "new", master_key_file=config.master_key_path)
    async with open_database(fresh) as database:
        with pytest.raises(BackupUnusable), (tmp_path / "cut").open("rb") as source:
            await restore(database, source, fresh.master_key_paths, Vault(bytes))
    assert (await rows(fresh))["organizations"] == []


def test_the_commands_do_the_same(tmp_path: Path) -> None:
    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(command.app, ["--config", str(tmp_path / "control.yaml"), *arguments])
        assert result.exit_code == code, result.output
        return result.stdout

    (tmp_path / "control.yaml").write_text(f"data_dir: {tmp_path / 'data'}\n")
    assert run("operator-token").startswith("sk-ant-oat01-")
    assert "sealed again" in run("rotate-master-key")
    assert "rows in" in run("backup", str(tmp_path / "backup"))
    assert mode(tmp_path / "backup") == 0o600
    run("backup", str(tmp_path / "backup"), code=1)
    run("restore", str(tmp_path / "backup"), code=1)
    (tmp_path / "control.yaml").write_text(
        f"data_dir: {tmp_path / 'other'}\nmaster_key_file: {tmp_path / 'data' / 'master.key'}\n"
    )
    assert "rows restored" in run("restore", str(tmp_path / "backup"))
    (tmp_path / "control.yaml").write_text("data_dir: /x\nnonsense: 1\n")
    run("operator-token", code=2)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"listen_addr": "nowhere"}, "listen_addr"),
        ({"domain_base": "a b"}, "domain_base"),
        ({"service_keys": [{"name": "e", "role": "edge"}]}, "exactly one of key_file and key"),
        ({"service_keys": [{"name": "e", "role": "edge", "key": "short"}]}, "at least 16"),
        ({"database_url": "mysql://x"}, "postgresql://"),
        ({"database_url": "nonsense with secret"}, "not a database URL"),
        ({"limits": {"tunnels_per_organization": 0}}, "tunnels_per_organization"),
    ],
)
async def test_a_wrong_configuration_names_its_key(tmp_path: Path, settings: dict[str, Any], reason: str) -> None:
    from qanat.config import validate
    from qanat.control.server import serve

    with pytest.raises(ConfigInvalid) as refused:
        async with serve(validate(ControlConfig, {"data_dir": str(tmp_path), "listen_addr": "127.0.0.1:0"} | settings)):
            pass
    assert reason in str(refused.value)
    assert "secret" not in str(refused.value)


async def test_a_backup_holds_nobody_up_and_sees_one_moment(tmp_path: Path) -> None:
    config = control_config(tmp_path)
    under_way, go_on = threading.Event(), threading.Event()

    class SlowDisk(io.BytesIO):
        def write(self, data: Any) -> int:
            if len(data) > 8 and not under_way.is_set():  # rows, and no header
                under_way.set()
                assert go_on.wait(60)
            return super().write(data)

    def work() -> int:
        async def run() -> int:
            async with open_database(config) as database:
                return await back_up(database, SlowDisk())

        return asyncio.run(run())

    async with open_operations(config) as (operations, found):
        actor = Actor("user_ada", "session", found.organization_id, found.default_workspace_id)
        before = await _count_rows(operations)
        backup = asyncio.create_task(asyncio.to_thread(work))
        try:
            assert await asyncio.to_thread(under_way.wait, 60)
            async with asyncio.timeout(10):
                await operations.tunnels.create(actor)
        finally:
            go_on.set()
        assert await backup == before < await _count_rows(operations)


async def _count_rows(operations: Operations) -> int:
    async with operations.context.database.read() as session:
        tables = Table.metadata.sorted_tables
        return sum([(await session.execute(select(func.count()).select_from(table))).scalar_one() for table in tables])


async def test_a_database_of_a_newer_version_is_named_and_left_alone(tmp_path: Path) -> None:
    config = control_config(tmp_path)
    async with open_database(config) as database, database.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999_future'"))
    with pytest.raises(ConfigInvalid, match="newer version"):
        async with open_operations(config):
            pass
