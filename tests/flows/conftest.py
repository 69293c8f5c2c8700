"""Clients in this process know the password of the Prefect servers that it starts."""

from __future__ import annotations

import os

from flows.run.prefect.password import password_of_this_process

os.environ["PREFECT_API_AUTH_STRING"] = password_of_this_process()  # before Prefect is imported, which reads it then
