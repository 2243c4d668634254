"""Why TLS failed, in the field's words rather than OpenSSL's."""

from __future__ import annotations

import re
import ssl

_ALERTS = {
    "TLSV1_ALERT_UNKNOWN_CA": "unknown certificate authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "bad certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "expired certificate",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "revoked certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "certificate unknown",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "unsupported certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "handshake failure",
    "TLSV1_ALERT_PROTOCOL_VERSION": "protocol version not supported",
    "TLSV1_ALERT_ACCESS_DENIED": "access denied",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "certificate required",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "no application protocol",
    "TLSV1_UNRECOGNIZED_NAME": "unrecognized name",
}

_UNNAMED = re.compile(r"^\[SSL\] | \(_ssl\.c:\d+\)$")
"""What Python puts around OpenSSL's text where it has no name for a reason."""


def reason_of(error: ssl.SSLError) -> tuple[str, bool]:
    """What was wrong, and whether it is the peer's alert that says so."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}", False
    reason = error.reason or _UNNAMED.sub("", str(error)).upper().replace(" ", "_")
    if "ALERT" in reason:
        return _ALERTS.get(reason, reason.split("ALERT_")[-1].replace("_", " ").lower()), True
    return _ALERTS.get(reason, reason.replace("_", " ").lower()), reason in _ALERTS
