"""What the edge promises."""

from __future__ import annotations

REQUIREMENTS: dict[str, str] = {
    "edge:wrong-clients": "Each kind of wrong client is refused as stated, and counted; the right one is served",
    "edge:internal-headers": "Nothing a client sends selects internal headers",
    "edge:proxy-protocol": "Behind a balancer the client's address comes from the PROXY protocol, version 2",
    "edge:relay": "A client on one node reaches a tunnel held only by another; a cut between them is a typed error",
    "edge:spread": "No connector has all its connections on one node while another is up",
    "edge:redis-loss": "Without Redis known routes go on; what is new is announced when it returns",
    "edge:drain": "A draining node tells clients to move, withdraws its routes and cuts nothing that still runs",
    "edge:node-lost": "Streams through a node that dies end with a reason, and new ones find another node",
    "edge:fail-static": "Without the control plane what is known goes on; what changed meanwhile holds once it is back",
    "edge:traffic": "Operators are told what each tunnel carried, every byte once, also when the node stops",
    "edge:lease": "A node that falls silent is told within seconds, and its successor does not inherit what it held",
    "edge:first-times": "First use of a tunnel and whether a connector is known are true over all nodes and restarts",
    "edge:push": "Archiving, rotation and certificates take effect at once, by push",
    "edge:events": "Operators see connectors registered, refused and lost, clients refused, and a tunnel's first use",
    "edge:kill": "A node killed under load costs only the calls in flight through it",
    "edge:in-flight": "A call through a node that dies ends at once in a typed, retryable error naming the hop",
    "edge:rolling-restart": "Restarting every node in turn under load loses no call",
    "edge:blindness": "Nothing of a payload is in an edge's memory, logs, metrics, packets, Redis, or the database",
    "edge:limits": "Every limit is configurable, and what is beyond it is refused, logged and counted",
    "edge:typed-errors": "Each broken hop has an error of its own, before and after the upgrade",
    "edge:wss": "Connectors are met by WebSocket on the client port, without a client certificate",
    "edge:client-cert": "A command issues client certificates for outer mTLS",
    "edge:workers": "Several worker processes share the ports, and each is a node of the cluster",
    "edge:probes": "A connectivity probe gets its handshake and hears nothing more, and no log complains",
    "edge:failed": "A fault of the edge itself is answered at once, by its own code, and logged with its traceback",
    "edge:unregister": "A connector that unregisters gets no new stream; its connection ends with its last one",
    "edge:endings": "Clients that vanish at any moment leave no session, stream or count behind",
}
GAPS: dict[str, str] = {}
