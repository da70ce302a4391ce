"""What can be done, by what it is done to. Each action has a page that says what will happen, and is done by its form.

Which of them are offered is up to the dashboard and to the rights of its role; the database decides in the end.
"""

from __future__ import annotations

from . import instance, many, migrate, settings
from .forms import Act

ACTS: dict[tuple[str, str], Act] = {
    (kind, act.verb): act
    for kind, acts in (
        ("instance", instance.ACTS),
        ("many", many.ACTS),
        ("queue", settings.QUEUE),
        ("machine", (*settings.MACHINE, *migrate.ACTS)),
        ("schedule", settings.SCHEDULE),
        ("limit", settings.LIMIT),
        ("worker", settings.WORKER),
        ("everything", settings.EVERYTHING),
    )
    for act in acts
}
