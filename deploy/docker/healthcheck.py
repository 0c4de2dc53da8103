"""Whether the node of this container answers; exit code 0 or 1. HOLDFAST_HEALTH_URL names what to ask.

Rule: the standard library alone, and nothing but /healthz, at the container's own name if nothing else is said. With HTTPS,
SSL_CERT_FILE names the CA that signed the node's certificate.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.request

ANSWER_SECONDS = 4.0
"""Below the five that the container engine waits, so that the reason is printed rather than cut off."""


def main() -> int:
    url = os.environ.get("HOLDFAST_HEALTH_URL", f"http://{socket.gethostname()}:7601/healthz")
    if not url.startswith(("http://", "https://")):
        sys.stderr.write(f"HOLDFAST_HEALTH_URL is no http or https address: {url}\n")
        return 1
    # No proxy: the node is in this very container.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ANSWER_SECONDS) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:  # URLError and HTTPError are such
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
