"""The control plane: owns tunnels, certificates, issuers, rules and credentials.

Operations (`operations/`) are written once over the store (`store/`); REST (`rest/`) and the console are skins.
"""
