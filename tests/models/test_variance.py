from __future__ import annotations

import goldens
import pytest

from nf_zoo.models.norm_free import variance_ledger

pytestmark = pytest.mark.fast

BETAS = sorted(
    path for path in goldens.REFERENCE.glob("*/*.json") if '"block_beta"' in path.read_text()
)


@pytest.mark.parametrize("path", BETAS, ids=lambda path: path.stem)
def test_beta_of_every_block_equals_the_published_code(path):
    golden = goldens.record(path.parent.name, path.stem)
    arch = golden.get("arch", golden)
    depths = arch["nf_cfg"]["depths"] if "nf_cfg" in arch else golden["depth"]
    rows = variance_ledger(depths, alpha=0.2)
    assert [row.beta for row in rows] == pytest.approx(arch["block_beta"], abs=1e-12)


def test_every_golden_with_betas_is_found():
    assert len(BETAS) == 16


def test_variance_grows_inside_a_stage_and_resets_at_its_start():
    rows = variance_ledger((3, 2), alpha=0.5)
    assert [row.before for row in rows] == pytest.approx([1, 1.25, 1.5, 1.75, 1.25])
    assert [row.after for row in rows] == pytest.approx([1.25, 1.5, 1.75, 1.25, 1.5])
    assert [(row.stage, row.block) for row in rows] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
