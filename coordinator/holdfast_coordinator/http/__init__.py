"""The HTTP API, version 1 (`openapi.yaml` beside this file is the contract).

`requests` and `views` are pure: what comes in and what goes out. `problems` is everything that is not a success. `handlers` has the
calls, `metrics` what is counted, `app` the application and its socket. Nothing here knows Raft: a node is a `NodePort`.
"""

from holdfast_coordinator.http.app import (
    HttpFailure,
    HttpServer,
    create_app,
    new_session_id,
    openapi_document,
    start_http,
)
from holdfast_coordinator.http.metrics import Metrics

__all__ = [
    "HttpFailure",
    "HttpServer",
    "Metrics",
    "create_app",
    "new_session_id",
    "openapi_document",
    "start_http",
]
