"""Several things at one time, and what becomes of the others when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from labd.model.errors import LabdError


async def gather_all(jobs: Iterable[Coroutine[None, None, None]]) -> None:
    """Do all jobs to their end at one time, and only then raise the first error of them."""
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    if errors:
        # A fault of labd is told before what may only follow from it.
        raise next((e for e in errors if not isinstance(e, LabdError)), errors[0])


async def wait_all(jobs: Iterable[asyncio.Task[Any]]) -> None:
    """Wait for all jobs; when one fails, cancel the others, wait for them, and raise its error."""
    jobs = list(jobs)
    if not jobs:
        return
    try:
        await asyncio.gather(*jobs)
    except BaseException:
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        raise
