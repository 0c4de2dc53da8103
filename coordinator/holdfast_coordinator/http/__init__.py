"""The HTTP API, version 1 (`openapi.yaml` beside this file is the contract).

What comes in and what goes out is pure: `bodies`, `fields`, `queries` and `requests`; `views`, `history_views` and `export`.
`problems` is everything that is not a success. The handlers are by noun (`sessions`, `locks`, `history`, `events`, `cluster`), and
`calls` is what they share; `streams` and `watchers` are what an answer without an end needs. `rates` bounds how often one
asks, `metrics` is what is counted, `app` the application and its socket. Nothing here knows Raft: a node is a `NodePort`.
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
