"""Run Prefect, Dask, schedules, inbox and map on one machine under one supervisor."""

from seamline.pipeline.common.extras import require_extras

require_extras("seamline up", "flows", "serve")
