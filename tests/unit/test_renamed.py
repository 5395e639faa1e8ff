"""Parameters by their old names."""

import operator

import pytest

from fusehub.utils.renamed import Renamed, renamed


@renamed(hidden=Renamed("shown", operator.not_), size="length")
def drawn(*, shown: bool = True, length: int = 1) -> tuple[bool, int]:
    return shown, length


def test_an_old_name_gives_the_new_parameter_its_value_and_warns_where_it_is_said() -> None:
    with pytest.warns(FutureWarning, match=r"hidden is called shown now \(shown=False\)") as caught:
        assert drawn(hidden=True) == (False, 1)
    assert caught[0].filename == __file__
    with pytest.warns(FutureWarning, match="size is called length now"):
        assert drawn(size=3, shown=False) == (False, 3)


def test_new_names_do_not_warn(recwarn: pytest.WarningsRecorder) -> None:
    assert drawn(shown=False, length=2) == (False, 2) and not recwarn


def test_both_names_and_unknown_ones_are_pythons_error() -> None:
    with pytest.raises(TypeError, match="got size, which is called length now, and length"):
        drawn(size=1, length=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
        drawn(width=1)


def test_a_new_name_that_no_parameter_has_is_found_at_once() -> None:
    with pytest.raises(TypeError, match="has no parameter nothing"):
        renamed(old="nothing")(drawn)
