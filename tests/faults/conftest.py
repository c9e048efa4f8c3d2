"""Owns what the tests of faults share: a workspace for local runs, a real Slurm and a workspace on it, as the tests of integration have."""

from __future__ import annotations

from tests.integration.faults.conftest import local as local
from tests.integration.faults.conftest import reference as reference
from tests.integration.slurm.conftest import _no_job_left_over as _no_job_left_over
from tests.integration.slurm.conftest import slurm as slurm
from tests.integration.slurm.conftest import workspace as workspace
