"""Owns what the world tests share: a real Slurm and a workspace on it, as the tests of integration/slurm have them."""

from __future__ import annotations

from tests.integration.slurm.conftest import _no_job_left_over as _no_job_left_over
from tests.integration.slurm.conftest import slurm as slurm
from tests.integration.slurm.conftest import workspace as workspace
