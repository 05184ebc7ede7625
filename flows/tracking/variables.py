"""Environment variables of flow runs; imports nothing, so that programs that start flow runs need no Prefect."""

from __future__ import annotations

HEARTBEAT_VARIABLE, HEARTBEAT_SECONDS = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY", 30
"""Environment variable of flow runs, and its value: seconds between two heartbeats. Prefect allows no fewer."""

MAP_URL_VARIABLE = "SEAMLINE_MAP_URL"
"""Environment variable with the address of ``seamline serve``; where it is set, artifacts link to the map."""
