"""What both languages have to say the same of. Each stands here once for Python; a test compares it with the server.

Numbers that only one side knows stand where they are used.
"""

from __future__ import annotations

from datetime import timedelta

Seconds = float | timedelta
"""A duration, wherever one is given."""

TERMINAL = ("done", "failed", "cancelled")
"""The statuses in which an instance has ended."""

TRACE_KEYS = ("traceparent", "tracestate", "baggage")
"""The keys of ``meta`` that children inherit: the trace in which an instance was inserted."""

DEFAULT_ATTEMPTS = 20
"""How often a step runs that raises or returns `Retry`, where neither the instance nor its machine says it."""

BAD_OUTCOME = ("22", "23", "54", "P0", "GD")
"""The SQLSTATE classes in which an error may be the fault of one outcome: the server isolates it in its batch."""

LEASE = timedelta(seconds=60)
"""How long a claim lives without a heartbeat, unless it is said."""

RETENTION = timedelta(days=7)
"""How long what has ended is kept, unless it is said."""
