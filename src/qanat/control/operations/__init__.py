"""Everything the control plane can do, each written once. REST and the console are skins over this."""

from __future__ import annotations

from dataclasses import dataclass

from qanat.control.conditions import Conditions
from qanat.control.fetching import Fetcher
from qanat.control.operations.authentication import Authentication
from qanat.control.operations.certificates import Certificates
from qanat.control.operations.changes import DataPlane
from qanat.control.operations.connectors import Connectors
from qanat.control.operations.console_sessions import ConsoleSessions
from qanat.control.operations.context import Context
from qanat.control.operations.events import Events
from qanat.control.operations.exchange import Exchange
from qanat.control.operations.history import History
from qanat.control.operations.housekeeping import Housekeeping
from qanat.control.operations.issuers import Issuers
from qanat.control.operations.key_sets import KeySets
from qanat.control.operations.keys import Keys
from qanat.control.operations.playground import Playgrounds
from qanat.control.operations.rules import Rules
from qanat.control.operations.service_accounts import ServiceAccounts
from qanat.control.operations.single_sign_on import SingleSignOns
from qanat.control.operations.tunnels import Tunnels
from qanat.control.operations.watches import WatchedRoutes
from qanat.control.operations.workspaces import Workspaces


@dataclass(frozen=True)
class Operations:
    """One instance of each group of operations, over one context. `await close()` when done."""

    context: Context
    authentication: Authentication
    tunnels: Tunnels
    certificates: Certificates
    keys: Keys
    workspaces: Workspaces
    service_accounts: ServiceAccounts
    issuers: Issuers
    rules: Rules
    exchange: Exchange
    history: History
    data_plane: DataPlane
    connectors: Connectors
    events: Events
    housekeeping: Housekeeping
    conditions: Conditions
    console_sessions: ConsoleSessions
    single_sign_on: SingleSignOns
    watches: WatchedRoutes
    playground: Playgrounds

    async def close(self) -> None:
        await self.conditions.close()


def make_operations(context: Context) -> Operations:
    """Every group, wired."""
    fetcher = Fetcher(context.config.federation.fetch_policy, context.resolve)
    conditions = Conditions()
    key_sets = KeySets(context, fetcher)
    data_plane = DataPlane(context)
    authentication = Authentication(context)
    watches, connectors = WatchedRoutes(context), Connectors(context)
    sessions = ConsoleSessions(context, authentication)
    return Operations(
        context=context,
        authentication=authentication,
        tunnels=Tunnels(context),
        certificates=Certificates(context),
        keys=Keys(context),
        workspaces=Workspaces(context),
        service_accounts=ServiceAccounts(context),
        issuers=Issuers(context, fetcher),
        rules=Rules(context, conditions),
        exchange=Exchange(context, key_sets, conditions),
        history=History(context),
        data_plane=data_plane,
        connectors=connectors,
        events=Events(context, watches, connectors),
        housekeeping=Housekeeping(context, key_sets, data_plane),
        conditions=conditions,
        console_sessions=sessions,
        single_sign_on=SingleSignOns(context, sessions),
        watches=watches,
        playground=Playgrounds(context),
    )
