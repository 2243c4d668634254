"""Everything the control plane can do, each written once. REST and the console are skins over this."""

from __future__ import annotations

from dataclasses import dataclass

from qanat.control.operations.authentication import Authentication
from qanat.control.operations.certificates import Certificates
from qanat.control.operations.changes import DataPlane
from qanat.control.operations.context import Context
from qanat.control.operations.events import Events
from qanat.control.operations.keys import Keys
from qanat.control.operations.tunnels import Tunnels


@dataclass(frozen=True)
class Operations:
    """One instance of each group of operations, over one context."""

    context: Context
    authentication: Authentication
    tunnels: Tunnels
    certificates: Certificates
    keys: Keys
    data_plane: DataPlane
    events: Events


def make_operations(context: Context) -> Operations:
    return Operations(
        context=context,
        authentication=Authentication(context),
        tunnels=Tunnels(context),
        certificates=Certificates(context),
        keys=Keys(context),
        data_plane=DataPlane(context),
        events=Events(context),
    )
