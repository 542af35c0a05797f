"""The figures' palette is seaborn's for the colour-blind."""

import pytest

from lossatlas.figures import style


def test_the_colours_are_seaborns_for_the_colour_blind():
    seaborn = pytest.importorskip("seaborn")
    named = ("BLUE", "ORANGE", "GREEN", "RED", "PURPLE", "BROWN", "PINK", "GREY", "YELLOW", "SKY")
    assert [getattr(style, name) for name in named] == seaborn.color_palette("colorblind").as_hex()
