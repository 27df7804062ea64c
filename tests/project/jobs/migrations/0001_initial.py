"""The first one."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """Makes the table."""

    initial = True
    operations = [  # noqa: RUF012  # Django's form
        migrations.CreateModel(
            name="Job",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False)),
                ("kind", models.TextField()),
                ("status", models.TextField(default="QUEUED")),
                ("finished_at", models.DateTimeField(null=True)),
                ("published", models.IntegerField(default=0)),
            ],
        )
    ]
