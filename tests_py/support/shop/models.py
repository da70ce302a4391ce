"""Orders."""

from django.db import models


class Order(models.Model):
    name = models.TextField()
    paid = models.IntegerField(default=0)

    class Meta:
        app_label = "shop"
