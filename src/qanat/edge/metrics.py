"""What the edge counts. A registry of its own, so that several edges can live in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """Every metric of one node; names begin with `qanat_edge_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.connections = Gauge(
            "qanat_edge_connections", "Registered connector connections.", ["protocol"], registry=self.registry
        )
        self.registrations = Counter(
            "qanat_edge_registrations", "Registrations by outcome.", ["outcome"], registry=self.registry
        )
        self.clients = Gauge("qanat_edge_clients", "Client connections open.", registry=self.registry)
        self.streams = Gauge("qanat_edge_streams", "Streams open, by where they end.", ["via"], registry=self.registry)
        self.opened = Counter("qanat_edge_streams_opened", "Streams opened.", ["via"], registry=self.registry)
        self.refused = Counter(
            "qanat_edge_refused", "Requests refused, by error code.", ["code"], registry=self.registry
        )
        self.cut = Counter("qanat_edge_cut", "Connections closed before a request.", ["reason"], registry=self.registry)
        self.stripped = Counter(
            "qanat_edge_stripped_headers", "Internal headers that clients tried to set.", registry=self.registry
        )
        self.bytes = Counter(
            "qanat_edge_relayed_bytes", "Bytes of ciphertext relayed.", ["direction"], registry=self.registry
        )
        self.open_seconds = Histogram(
            "qanat_edge_open_seconds", "From a request to the proxy's answer to it.", registry=self.registry
        )
        self.following = Gauge(
            "qanat_edge_control_following", "1 while the control plane's changes arrive.", registry=self.registry
        )
        self.events_dropped = Counter(
            "qanat_edge_events_dropped", "Events lost because the queue was full.", registry=self.registry
        )
        self.nodes = Gauge("qanat_edge_cluster_nodes", "Other nodes known to be up.", registry=self.registry)
        self.redis = Gauge("qanat_edge_redis_up", "1 while the cluster's Redis answers.", registry=self.registry)
        self.draining = Gauge("qanat_edge_draining", "1 from the stop signal on.", registry=self.registry)
