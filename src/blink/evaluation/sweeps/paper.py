"""The paper's own results, as printed: Tables 1, 2, 3, 5, 6 and 7, and what the text says of Figs. 4 and 7.

Data only. MME is in points, all else in percent. A value that the paper does not print is absent, sums included:
for vanilla it prints MME's perception and cognition but not their total. Figs. 4 and 7 are plots without numbers,
so of them only sentences and points that tables share are here. Where a benchmark has one number it is "score".
"""

from typing import NamedTuple

from blink.bench.mme import COGNITION, PERCEPTION

Scores = dict[str, dict[str, float]]
"""Benchmark -> metric -> value."""


class PaperTable(NamedTuple):
    """One table or figure.

    Attributes:
        number: as the paper counts it.
        family: backbone of its numbers, a key of `blink.evaluation.planning.presets`.
        rows: name of the row -> its values, in the order of the print.
        remarks: what the text says of it that is no number of a row.
    """

    number: str
    family: str
    rows: dict[str, Scores]
    remarks: tuple[str, ...] = ()


_MME = (*PERCEPTION, "perception", *COGNITION, "cognition")
"""Columns of MME in Tables 1 and 5, the totals last of their parts."""

_OTHERS = ("gqa", "mmbench", "mmbench_cn", "pope", "scienceqa", "mmvet")


def _full(perception: str, cognition: str, others: str) -> Scores:
    """A row of Table 1 or 5, in the order of its columns."""
    mme = dict(zip(_MME, map(float, f"{perception} {cognition}".split()), strict=True))
    rest = {name: {"score": float(value)} for name, value in zip(_OTHERS, others.split(), strict=True)}
    return {"mme": mme, **rest}


def _mme(perception: float, cognition: float, total: float) -> Scores:
    """A row of a table about MME."""
    return {"mme": {"perception": perception, "cognition": cognition, "total": total}}


_TABLE_1 = {
    "vanilla": _full(
        "190.00 155.00 128.33 170.00 147.62 136.76 158.00 163.00 119.50 137.50 1505.72",
        "112.86 70.00 107.50 67.50 357.86",
        "61.93 64.60 58.08 85.17 69.46 32.20",
    ),
    "interp": _full(
        "190.00 160.00 133.33 170.00 147.62 135.88 157.25 163.00 119.50 137.50 1514.08",
        "110.71 70.00 107.50 65.00 353.21",
        "61.93 64.69 58.51 85.17 69.51 31.70",
    ),
    "blink": _full(
        "190.00 160.00 138.33 170.00 147.28 135.88 158.00 163.00 119.75 137.50 1519.74",
        "114.29 75.00 107.50 65.00 361.79",
        "61.98 64.69 58.59 85.23 69.66 33.40",
    ),
}

_TABLE_5 = {
    "vanilla": _full(
        "195.00 158.33 135.00 175.00 150.68 146.47 164.25 167.50 134.75 102.50 1529.48",
        "120.00 57.50 102.50 35.00 315.00",
        "64.26 69.07 60.82 86.37 70.40 39.80",
    ),
    "interp": _full(
        "195.00 158.33 135.00 180.00 150.68 147.35 164.25 167.50 134.00 102.50 1534.62",
        "120.00 55.00 110.00 35.00 320.00",
        "64.22 69.07 60.82 86.23 70.50 40.40",
    ),
    "blink": _full(
        "200.00 158.33 130.00 180.00 153.74 142.94 163.50 166.00 134.00 102.50 1531.02",
        "120.00 57.50 117.50 35.00 330.00",
        "64.29 69.07 60.91 86.40 70.45 40.50",
    ),
}

_VANILLA: Scores = {"mme": _TABLE_1["vanilla"]["mme"]}
"""Table 1's, beside the tables about MME, which print no vanilla."""

_INTERP, _BLINK = _mme(1514.08, 353.21, 1867.29), _mme(1519.74, 361.79, 1881.53)

TABLES: dict[str, PaperTable] = {
    "table1": PaperTable("Table 1", "llava15_7b", _TABLE_1),
    "table2": PaperTable(
        "Table 2",
        "llava15_7b",
        {
            "vanilla": _VANILLA,
            "interp": _INTERP,
            "interp w/o SGS": _mme(1509.83, 355.36, 1865.19),
            "interp w/o DTR": _mme(1514.73, 343.93, 1858.66),
            "interp w/o Drop": _mme(1514.83, 351.07, 1865.90),
            "interp High tau_exp / Low tau_drop": _mme(1509.83, 355.71, 1865.54),
            "interp High tau_exp": {"mme": {"total": 1867.69}},
            "blink": _BLINK,
            "blink w/o SGS": _mme(1519.74, 359.64, 1879.38),
            "blink w/o DTR": _mme(1478.67, 361.79, 1840.46),
            "blink w/o Drop": _mme(1524.74, 359.29, 1884.03),
            "blink High tau_exp / Low tau_drop": _mme(1509.83, 357.86, 1867.69),
            "blink High tau_exp": {"mme": {"total": 1865.54}},
        },
        (
            "totals of High tau_exp follow from the differences of +0.40 and -15.99 that Sec. 4.3 gives",
            "the paper's w/o SGS chooses tokens 'for expansion or drop' randomly: its number stands beside the row "
            "where region and action are random",
        ),
    ),
    "table3": PaperTable(
        "Table 3",
        "llava15_7b",
        {
            "vanilla": _VANILLA,
            "11-17": _mme(1518.20, 364.29, 1882.49),
            "12-18": _BLINK,
            "13-19": _mme(1511.97, 362.14, 1874.11),
            "14-20": _mme(1512.06, 362.14, 1874.20),
        },
    ),
    "table5": PaperTable("Table 5", "llava_next_7b", _TABLE_5),
    "table6": PaperTable(
        "Table 6",
        "llava15_7b",
        {
            "vanilla": _VANILLA,
            "interp 2x2": _INTERP,
            "interp 3x3": _mme(1507.44, 350.36, 1857.80),
            "interp 4x4": _mme(1499.38, 335.36, 1834.74),
            "blink 2x2": _BLINK,
            "blink 3x3": _mme(1498.16, 374.64, 1872.80),
            "blink 4x4": _mme(1500.24, 358.21, 1858.45),
        },
    ),
    "table7": PaperTable(
        "Table 7",
        "llava15_7b",
        {
            "vanilla": _VANILLA,
            "interp": _INTERP,
            "interp w/o interp": _mme(1510.58, 357.86, 1868.44),
            "blink": _BLINK,
            "blink w/o interp": _mme(1515.08, 355.00, 1870.08),
        },
    ),
    "fig4": PaperTable(
        "Fig. 4",
        "llava15_7b",
        {"vanilla": _VANILLA},
        ("copying salient tokens at fixed layers improves the performance across MME's tasks (Sec. 2.2)",),
    ),
    "fig7_start": PaperTable(
        "Fig. 7, top",
        "llava15_7b",
        {"vanilla": _VANILLA, "12-18": _BLINK},
        ("with the end fixed at layer 18, leaving out layers 4-9 is better (Sec. 4.5)",),
    ),
    "fig7_end": PaperTable(
        "Fig. 7, bottom",
        "llava15_7b",
        {"vanilla": _VANILLA, "12-18": _BLINK},
        ("with the start fixed at layer 12, taking in layers 14-18 causes a noticeable drop (Sec. 4.5)",),
    ),
    "fig7_single": PaperTable(
        "Fig. 7, single layers",
        "llava15_7b",
        {"vanilla": _VANILLA},
        (
            "layers around 7-26 alone improve much more; layers around 4-6 alone lower the performance substantially "
            "(Sec. 4.5)",
        ),
    ),
}
"""Key -> table or figure."""

POPE_REMARK = (
    "the paper gives one number for POPE and does not say which; each is a multiple of 1/3000, so it looks like the "
    "accuracy on one split of 3,000 questions rather than the mean F1 over three"
)
