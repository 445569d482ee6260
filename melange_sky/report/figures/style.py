"""The colours and hatches of figures, in light and dark, and what each says.

A colour is never alone: what it tells also stands as a letter or a word, and the origin of a number as a hatch.
"""

from __future__ import annotations

from melange_sky.capacities import Origin

SERIES = (
    "#1f5fa8",
    "#a34a00",
    "#1e7145",
    "#7b3fa0",
    "#a81e50",
    "#0f7183",
    "#6b5b00",
    "#4a5568",
)
"""Light colours of series; white text on each, and each on white, has a contrast of 4.5 or more."""

INK, MUTED, LINE, PAPER, ON = "#16191d", "#59606a", "#d5d9de", "#fdfdfe", "#ffffff"
"""Text, lesser text, grid lines, background, and what is written on a colour of a series."""

DARK = {
    "#1f5fa8": "#82b7f2",
    "#a34a00": "#f0a35e",
    "#1e7145": "#7ccf9a",
    "#7b3fa0": "#c9a2f0",
    "#a81e50": "#f593b2",
    "#0f7183": "#6fd0de",
    "#6b5b00": "#d8c65a",
    "#4a5568": "#b4bac4",
    INK: "#eceef1",
    MUTED: "#a9b0ba",
    LINE: "#3a4049",
    PAPER: "#14171b",
    ON: "#101215",
}
"""Each light colour's counterpart on a dark background."""

NAMES = {
    **{colour: f"--ms-{n + 1}" for n, colour in enumerate(SERIES)},
    INK: "--ms-ink",
    MUTED: "--ms-muted",
    LINE: "--ms-line",
    PAPER: "--ms-paper",
    ON: "--ms-on",
}
"""The CSS variable that a colour of an inline figure is read from."""

HATCHES = {
    Origin.MEASURED: "",
    Origin.GIVEN: "",
    Origin.OBSERVED: "|||",
    Origin.INTERPOLATED: "..",
    Origin.CALIBRATED: "\\\\\\",
    Origin.ESTIMATED: "////",
    Origin.BOUND: "xxx",
}


def hatch_of(origin: Origin | None) -> str:
    """Return the hatch that says how a number is known; plain for what is measured, or is no estimate at all."""
    return "" if origin is None else HATCHES[origin]


def series_colour(number: int) -> str:
    """Return the colour of the series of a number; they begin again after the last."""
    return SERIES[number % len(SERIES)]


def letter_of(number: int) -> str:
    """Return a series' letter: A to Z, then A2.

    >>> letter_of(0), letter_of(26)
    ('A', 'A2')
    """
    return chr(ord("A") + number % 26) + (str(number // 26 + 1) if number >= 26 else "")


def variables_css(colours: dict[str, str]) -> str:
    """Return CSS declarations of the variables: for each name its colour in `colours`, else the light one."""
    return "".join(f"{name}:{colours.get(light, light)};" for light, name in NAMES.items())


FIGURE_CSS = (
    f":root{{color-scheme:light dark;{variables_css({})}}}\n"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{variables_css(DARK)}}}}}"
)
"""What a page with inline figures needs: the variables in light, and in dark where the reader wants that."""
