"""gendurable as an app of a Django project: ``INSTALLED_APPS = [..., "gendurable_py.contrib.django"]``.

What is imported from here works before the apps are ready, and without the app: calls on Django's own connection, and
`atomic` for transactional steps. As an app it brings a migration that installs gendurable, a read-only admin with the
actions of an operator, and the command ``manage.py gendurable``; `tasks` has a backend of ``django.tasks``.
"""

from __future__ import annotations

from .calling import (
    DjangoCall,
    ainsert,
    ainsert_many,
    aresult,
    asignal,
    cancel,
    connection,
    find,
    insert,
    insert_many,
    reschedule,
    result,
    retry,
    signal,
    signal_many,
)
from .transactions import atomic

__all__ = [
    "DjangoCall",
    "ainsert",
    "ainsert_many",
    "aresult",
    "asignal",
    "atomic",
    "cancel",
    "connection",
    "find",
    "insert",
    "insert_many",
    "reschedule",
    "result",
    "retry",
    "signal",
    "signal_many",
]
