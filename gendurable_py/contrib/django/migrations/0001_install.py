"""Install gendurable. The models are views, which Django does not make: here they are for their permissions."""

from django.db import migrations, models

from gendurable_py.contrib.django.installing import Install


class Migration(migrations.Migration):
    initial = True
    operations = [  # noqa: RUF012 - as Django has it
        Install("0.4.0", first=True),
        migrations.CreateModel(
            name="Instance",
            fields=[("id", models.BigIntegerField(primary_key=True, serialize=False))],
            options={
                "db_table": "gd_instances",
                "permissions": (
                    ("retry_instance", "Can retry instance"),
                    ("cancel_instance", "Can cancel instance"),
                    ("pause_instance", "Can pause and resume instance"),
                    ("reschedule_instance", "Can reschedule instance"),
                    ("signal_instance", "Can signal instance"),
                ),
                "abstract": False,
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Queue",
            fields=[("queue", models.TextField(primary_key=True, serialize=False))],
            options={
                "db_table": "gd_queues",
                "permissions": (("pause_queue", "Can pause and resume queue"),),
                "abstract": False,
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Schedule",
            fields=[("name", models.TextField(primary_key=True, serialize=False))],
            options={
                "db_table": "gd_schedules",
                "permissions": (
                    ("pause_schedule", "Can pause and resume schedule"),
                    ("trigger_schedule", "Can trigger schedule"),
                ),
                "abstract": False,
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[("worker", models.TextField(primary_key=True, serialize=False))],
            options={
                "db_table": "gd_workers",
                "permissions": (("drain_worker", "Can drain and resume worker"),),
                "abstract": False,
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
    ]
