"""Every wrong implementation is caught by at least one check."""

import pytest

from mutants.catch import all_mutants, caught_by

MUTANTS = all_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{mutant.case}: {mutant.wrong}" for mutant in MUTANTS])
def test_is_caught(mutant):
    assert caught_by(mutant, all_of_them=False), "no check notices"


CHECKS = {check for mutant in MUTANTS for check in mutant.checks}


@pytest.mark.parametrize("check", sorted(CHECKS, key=lambda check: check.__name__))
def test_the_check_passes_where_nothing_is_wrong(check):
    check()
