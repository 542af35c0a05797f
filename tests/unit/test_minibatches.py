"""Minibatches that go through one order of the rows after another."""

from itertools import islice

import pytest
import torch

from lossatlas.errors import LossAtlasError
from lossatlas.minibatches import endless_rows


def generator(number):
    return torch.Generator().manual_seed(number)


def drawn(count, rows, batch, *numbers):
    """The first minibatches (count, b, batch)."""
    return torch.stack(list(islice(endless_rows(rows, batch, [generator(i) for i in numbers]), count)))


@pytest.mark.parametrize(("rows", "batch"), [(20, 5), (23, 5), (23, 12), (7, 7), (4, 1)])
def test_no_row_comes_again_before_all_that_fit_have_come(rows, batch):
    fit = rows // batch
    for own in drawn(6 * fit, rows, batch, 0, 1).unflatten(0, (6, fit)).permute(2, 0, 1, 3).flatten(0, 1):
        seen = own.flatten().tolist()
        assert len(set(seen)) == len(seen) == fit * batch
        assert set(seen) <= set(range(rows))


def test_each_band_draws_by_its_own_generator_as_if_alone_and_in_a_new_order_each_time():
    both = drawn(8, 23, 5, 3, 4)
    assert torch.equal(both[:, :1], drawn(8, 23, 5, 3))
    assert torch.equal(both[:, 1:], drawn(8, 23, 5, 4))
    assert not torch.equal(both[:4, 0], both[:4, 1])
    assert not torch.equal(both[:4, 0], both[4:, 0])


def test_every_row_is_left_out_equally_often():
    """Of 11 rows three are left out of each order of two minibatches of four: a share of 3/11 of the 3000 orders."""
    counts = torch.bincount(drawn(2 * 3000, 11, 4, 0).flatten(), minlength=11)
    share, error = 8 / 11, (8 / 11 * 3 / 11 / 3000) ** 0.5
    assert (counts / 3000 - share).abs().max() < 4 * error


def test_a_batch_larger_than_the_data_set_is_refused_before_the_first_step():
    with pytest.raises(LossAtlasError, match=r"batch_size 6 is larger than the data set \(5 rows\)"):
        endless_rows(5, 6, [generator(0)])
