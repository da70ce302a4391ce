"""gendurable's views as models that Django does not manage: for the admin, its permissions, and queries of your own.

They are read only: whatever changes something goes through the calls. A query over `Instance` reads what it is told
to: name an id, or a slice of the newest (``Instance.objects.order_by("-id")[:100]``), since a filter or a count over
millions of rows is as slow as it is anywhere.
"""

from __future__ import annotations

from typing import Any

from django.db import models

from . import conf
from ._texts import shown


class ViewManager(models.Manager):
    """Asks the first database of ``GENDURABLE["DATABASES"]``, unless a query says ``using``."""

    def get_queryset(self) -> Any:
        queryset = super().get_queryset()
        return queryset if self._db else queryset.using(conf.default_database())


class View(models.Model):
    """A row of a view."""

    objects = ViewManager()

    class Meta:
        abstract = True
        managed = False
        default_permissions = ("view",)

    def save(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(f"{type(self).__name__} is read only: call what changes it (insert, retry, cancel, ...)")

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{type(self).__name__} is read only: gendurable_py.delete removes an instance")


class Instance(View):
    """Every instance: ``gd_instances``."""

    id = models.BigIntegerField(primary_key=True)
    fsm = models.TextField("machine")
    fsm_version = models.IntegerField("version")
    step = models.TextField()
    status = models.TextField()
    queue = models.TextField()
    priority = models.IntegerField()
    eligible_at = models.DateTimeField("due", null=True)
    attempt = models.IntegerField()
    crashes = models.IntegerField()
    worker = models.TextField(null=True)
    lease_expires_at = models.DateTimeField(null=True)
    partition_key = models.TextField(null=True)
    unique_key = models.TextField(null=True)
    rate_limit = models.TextField(null=True)
    parent_id = models.BigIntegerField("parent", null=True)
    children_pending = models.IntegerField()
    state = models.JSONField()
    result = models.JSONField(null=True)
    last_error = models.TextField(null=True)
    meta = models.JSONField()
    attributes = models.JSONField()
    inserted_at = models.DateTimeField("inserted")
    updated_at = models.DateTimeField("updated")
    finished_at = models.DateTimeField("ended", null=True)
    expires_at = models.DateTimeField(null=True)
    keep_until = models.DateTimeField(null=True)
    paused_at = models.DateTimeField("paused", null=True)

    class Meta(View.Meta):
        db_table = "gd_instances"
        permissions = (
            ("retry_instance", "Can retry instance"),
            ("cancel_instance", "Can cancel instance"),
            ("pause_instance", "Can pause and resume instance"),
            ("reschedule_instance", "Can reschedule instance"),
            ("signal_instance", "Can signal instance"),
        )

    def __str__(self) -> str:
        return f"{shown(self.fsm)} {self.pk}"


class Queue(View):
    """Every queue: ``gd_queues``."""

    queue = models.TextField(primary_key=True)
    due = models.BigIntegerField()
    delayed = models.BigIntegerField()
    executing = models.BigIntegerField()
    parked = models.BigIntegerField()
    limited = models.BigIntegerField("of these for a rate limit")
    oldest_due_at = models.DateTimeField("oldest due", null=True)
    paused = models.BooleanField()
    max_executing = models.IntegerField("limit", null=True)
    concurrency = models.IntegerField("of each worker", null=True)
    workers = models.BigIntegerField()
    slots = models.BigIntegerField()

    class Meta(View.Meta):
        db_table = "gd_queues"
        permissions = (("pause_queue", "Can pause and resume queue"),)

    def __str__(self) -> str:
        return shown(self.queue)


class Schedule(View):
    """Every schedule: ``gd_schedules``."""

    name = models.TextField(primary_key=True)
    cron = models.TextField()
    timezone = models.TextField()
    fsm = models.TextField("machine")
    queue = models.TextField()
    priority = models.IntegerField()
    options = models.JSONField()
    next_at = models.DateTimeField("next", null=True)
    last_tick_at = models.DateTimeField("last tick", null=True)
    last_at = models.DateTimeField("last insert", null=True)
    last_id = models.BigIntegerField("inserted last", null=True)
    last_error = models.TextField(null=True)
    paused_at = models.DateTimeField("paused", null=True)
    seen_at = models.DateTimeField("seen", null=True)

    class Meta(View.Meta):
        db_table = "gd_schedules"
        permissions = (
            ("pause_schedule", "Can pause and resume schedule"),
            ("trigger_schedule", "Can trigger schedule"),
        )

    def __str__(self) -> str:
        return shown(self.name)


class Worker(View):
    """Every worker that lives or holds claims: ``gd_workers``."""

    worker = models.TextField(primary_key=True)
    host = models.TextField(null=True)
    pid = models.IntegerField("process", null=True)
    version = models.TextField(null=True)
    queues = models.JSONField(null=True)
    state = models.TextField(null=True)
    executing = models.BigIntegerField()
    oldest_claim_at = models.DateTimeField("oldest claim", null=True)
    running = models.IntegerField(null=True)
    started_at = models.DateTimeField("started", null=True)
    seen_at = models.DateTimeField("seen", null=True)
    draining_since = models.DateTimeField(null=True)
    drained_by = models.TextField(null=True)
    clock_skew = models.FloatField("clock ahead", null=True)

    class Meta(View.Meta):
        db_table = "gd_workers"
        permissions = (("drain_worker", "Can drain and resume worker"),)

    def __str__(self) -> str:
        return shown(self.worker)
