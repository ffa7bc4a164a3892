"""Figures that look into a backbone: their numbers by hand and by another way, and that they draw."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from blink import TokenSR
from blink.analysis.cases import as_seen
from blink.analysis.figures import attention_maps, attention_ratio, redistribution, tokensr
from blink.analysis.figures.recipes import choose_cases, spread_out
from blink.analysis.figures.redistribution_cases import case_table, draw_cases
from blink.analysis.probe import Prober
from blink.bench import Sample
from blink.model.backbone import Backbone
from blink.model.prompts import template_named
from blink.model.token_sr import cut_region, upsample
from blink.model.views import ViewMaker, prefix_ids
from blink.runs.style import look
from blink.training.features import Tokens, principal_colours
from blink.training.objective import token_kl
from tests import models


def samples(count: int = 4) -> list[Sample]:
    """Questions about pictures of which two share one; every second has a box."""
    return [
        Sample(
            id=f"s{n}",
            image=f"picture{n // 2}",
            question=f"Is there a {word} circle in the image?",
            label="",
            split="",
            open_image=lambda seed=n // 2: models.picture(seed),  # type: ignore[misc]
            details={"box": None if n % 2 else [5, 35, 20, 50]},
        )
        for n, word in zip(range(count), ("red", "green", "blue", "small", "large", "yellow"), strict=False)
    ]


@pytest.fixture(scope="module")
def loaded() -> Backbone:
    model = models.llava(grid=6, layers=4, hidden=32)
    return Backbone(model, models.processor(model), name="random")


@pytest.fixture(scope="module")
def prober(loaded: Backbone) -> Prober:
    torch.manual_seed(0)
    return Prober(loaded, template_named("vicuna_v1"), modules={1: TokenSR(32)}, batch_size=3)


def saved(figure: Figure, tmp_path: Path) -> None:
    """Draw a figure for real: warnings of layout and fonts come then."""
    figure.savefig(tmp_path / "figure.png")


def by_hand(**changes: object) -> attention_ratio.Ratios:
    """Two layers, four samples of three pictures, the last one without a box."""
    made = attention_ratio.Ratios(
        layers=[2, 5],
        ratio_NL=np.array([[0.3, 0.9], [0.4, 0.8], [0.5, 0.7], [0.6, 0.6]]),
        hottest_NL=np.array([[0, 3], [1, 3], [2, 3], [3, 3]]),
        right_N=np.array([0, 3, 3, -1]),
        patches=2,
        samples=[("a", "p"), ("b", "p"), ("c", "q"), ("d", "r")],
    )
    return made._replace(**changes)  # type: ignore[arg-type]


def test_share_of_correct_regions_by_hand() -> None:
    """Would catch samples without a box counted as wrong, and questions taken as independent of their picture."""
    first, last = attention_ratio.correct_shares(by_hand())
    assert first.value == pytest.approx(1 / 3)
    assert last.value == pytest.approx(2 / 3)
    assert [last.low, last.high] == pytest.approx([0.5, 1.0])  # two pictures: shares 1/2 and 1


def test_share_without_relation_by_hand() -> None:
    """Would catch a chance level that ignores that attention and objects prefer the same place."""
    assert attention_ratio.unrelated_shares(by_hand()) == pytest.approx([1 / 9, 2 / 3])


def test_ratio_table_has_quartiles() -> None:
    """Would catch quartiles over layers in place of samples."""
    record = attention_ratio.table(by_hand())[0]
    assert (
        record["ratio_quartile_low"],
        record["ratio_median"],
        record["ratio_quartile_high"],
    ) == pytest.approx((0.375, 0.45, 0.525))
    assert record["samples_with_box"] == 3


def test_ratio_figure_marks_layers_above_chance(tmp_path: Path) -> None:
    """Would catch marks at layers whose interval reaches down to chance."""
    with look():
        figure = attention_ratio.draw(by_hand(), "title", singles=1)
        saved(figure, tmp_path)
    marked = [line for line in figure.axes[0].lines if str(line.get_label()).startswith("looks at the right")]
    assert [list(np.asarray(line.get_xdata())) for line in marked] == [[5]]
    assert len(figure.axes) == 2


def test_ratio_figure_of_one_question(tmp_path: Path) -> None:
    """Would catch quartiles and intervals of a single sample."""
    alone = by_hand(
        ratio_NL=np.array([[0.3, 0.9]]),
        hottest_NL=np.array([[0, 3]]),
        right_N=np.array([0]),
        samples=[("a", "p")],
    )
    with look():
        figure = attention_ratio.draw(alone, "title")
        saved(figure, tmp_path)
    assert len(figure.axes) == 1


def test_measured_ratios_belong_to_their_samples(prober: Prober) -> None:
    """Would catch batches whose rows are mixed up: a sample alone must give what it gives in company."""
    asked = samples()
    together = attention_ratio.measure(prober, asked, [None] * 4, [0, 2], 3)
    alone = attention_ratio.measure(prober, asked[3:], [None], [0, 2], 3)
    np.testing.assert_allclose(together.ratio_NL[3], alone.ratio_NL[0], rtol=1e-4)
    assert together.hottest_NL[3].tolist() == alone.hottest_NL[0].tolist()
    assert together.boxed == 0


def test_attention_maps(prober: Prober, loaded: Backbone, tmp_path: Path) -> None:
    """Would catch maps of the wrong sample or transposed, and a figure that does not draw."""
    shown = [as_seen(sample, ViewMaker(loaded.processor), 2) for sample in samples(2)]
    cases = attention_maps.measure(prober, shown, [1, 3], 2)
    one = cases[1][1]
    blocks = one.attention_HW.reshape(2, 3, 2, 3).sum(axis=(1, 3)).reshape(-1)
    assert one.region == blocks.argmax()
    assert one.ratio == pytest.approx(blocks.max() / blocks.sum(), rel=1e-5)
    records = attention_maps.table(shown, cases)
    assert [record["layer"] for record in records] == [1, 3, 1, 3]
    assert [record["right_region"] for record in records] == [2, 2, None, None]
    with look():
        saved(attention_maps.draw(shown, cases, 2, "title"), tmp_path)


def test_entropy_of_known_spreads() -> None:
    """Would catch entropy that depends on the total, on the number of tokens, or on the base of the logarithm."""
    assert redistribution.normalised_entropy(torch.full((9,), 0.01)) == pytest.approx(1)
    assert redistribution.normalised_entropy(torch.tensor([0.0, 0.3, 0.0])) == 0
    half = redistribution.normalised_entropy(torch.tensor([0.2, 0.2, 0.0, 0.0]))
    assert half == pytest.approx(0.5)
    assert math.isnan(redistribution.normalised_entropy(torch.zeros(0)))


def test_redistribution(prober: Prober, loaded: Backbone, tmp_path: Path) -> None:
    """Would catch an extension that dies, methods that are the same, and the original's numbers for the extension's."""
    shown = [as_seen(sample, ViewMaker(loaded.processor), 2) for sample in samples()]
    found = redistribution.measure(prober, shown, 1, 2, refine=True, keep_maps=1)
    assert found.layers == [1, 2, 3]
    vanilla, interp, trained = (found.spreads[name] for name in ("vanilla", "interp", "token_sr"))
    assert np.isnan(vanilla.measures["total_extension"]).all()
    assert (interp.measures["total_extension"] > 0).all()
    assert not np.allclose(interp.measures["total_extension"], trained.measures["total_extension"])
    np.testing.assert_array_equal(interp.born_N, vanilla.hottest_NL[:, 0])
    np.testing.assert_array_equal(trained.born_N, interp.born_N)
    taken = interp.measures["total_original"][0, 2], interp.measures["total_extension"][0, 2]
    look_3 = interp.maps[0][3]
    assert taken == pytest.approx((float(look_3.original_V.sum()), float(look_3.extension_X.sum())))
    records = redistribution.table(found)
    assert [(r["method"], r["layer"]) for r in records[3:5]] == [("interp", 1), ("interp", 2)]
    more = (interp.measures["total_extension"] > interp.measures["total_original"])[:, 0].mean()
    assert records[3]["total_higher_on_extension"] == pytest.approx(more)
    assert records[3]["samples_with_box"] == 2
    assert len(case_table(shown[:1], found)) == 9
    with look():
        saved(redistribution.draw(found, "title"), tmp_path)
        saved(draw_cases(shown[:1], found, [2, 3], (6, 6), "title"), tmp_path)


def test_redistribution_without_modules(prober: Prober, loaded: Backbone) -> None:
    """Would catch TokenSR modules needed for interpolation."""
    shown = [as_seen(sample, ViewMaker(loaded.processor), 2) for sample in samples(2)]
    found = redistribution.measure(prober, shown, 2, 2, refine=False, keep_maps=0)
    assert list(found.spreads) == ["vanilla", "interp"]


def test_token_features_are_those_of_training(loaded: Backbone, tmp_path: Path) -> None:
    """Would catch quadrants in another order than regions, and a KL other than the loss."""
    backbone, views = loaded, ViewMaker(loaded.processor)(models.picture(3))
    prefix = prefix_ids(loaded.processor, template_named("vicuna_v1").prefix)
    torch.manual_seed(0)
    modules = {0: TokenSR(32), 2: TokenSR(32)}
    found = tokensr.features(backbone, prefix, views, modules)[2]
    whole = backbone.visual_states(prefix, views.full_Chw[None], [2])[2]
    lone = backbone.visual_states(prefix, views.quadrants_QChw[1:2], [2])[2]
    coarse = cut_region(whole, 1, 2)
    for got, want in zip(
        found[1], (coarse, upsample(coarse, (6, 6)), modules[2](upsample(coarse, (6, 6))), lone), strict=True
    ):
        torch.testing.assert_close(got, want[0], rtol=1e-4, atol=1e-4)
    kl_HW = tokensr.token_kl_map(found[1].interp_dHW[None], found[1].teacher_dHW[None], 2.0)
    loss = token_kl(found[1].interp_dHW.movedim(0, -1), found[1].teacher_dHW.movedim(0, -1), 2.0)
    torch.testing.assert_close(kl_HW.mean(), loss)
    measured = tokensr.measure(backbone, prefix, [views], modules, 2.0)
    each = [tokensr.token_kl_map(one.interp_dHW[None], one.teacher_dHW[None], 2.0)[0] for one in found]
    np.testing.assert_allclose(measured.kl[2]["interp"], torch.stack(each).mean(dim=0), rtol=1e-4)
    assert [record["layer"] for record in tokensr.table(measured)] == [0, 2]
    with look():
        saved(tokensr.draw(measured, 2, "title"), tmp_path)
        saved(tokensr.draw_features([(models.picture(3), found[1])], "title"), tmp_path)


def test_equal_tokens_have_equal_colours() -> None:
    """Would catch parts that are each coloured in a basis of their own."""
    torch.manual_seed(0)
    same = torch.randn(8, 4, 4)
    coarse, interp, refined, teacher = principal_colours(Tokens(same[:, :2, :2], same, same + 3, same))
    np.testing.assert_array_equal(interp, teacher)
    np.testing.assert_array_equal(coarse, teacher[:2, :2])
    assert not np.allclose(refined, teacher)
    shifted = principal_colours(Tokens(same[:, :2, :2], same, same + 3, same), less_mean=True)
    np.testing.assert_allclose(shifted[2], shifted[3], atol=1e-5)


def test_cases_are_of_different_pictures_and_have_boxes() -> None:
    """Would catch a figure of one picture four times, or of questions about absent objects."""
    asked = samples(6)
    assert [sample.id for sample in choose_cases(asked, 2, None)] == ["s0", "s2"]
    assert [sample.id for sample in choose_cases(asked, 9, None)][:3] == ["s0", "s2", "s4"]
    assert [sample.id for sample in choose_cases(asked, 1, ["s3"])] == ["s3"]
    with pytest.raises(ValueError, match=r"figure.ids=\['x'\]: not among the 6 questions"):
        choose_cases(asked, 1, ["s1", "x"])


def test_samples_are_spread_out() -> None:
    """Would catch the first pictures alone, an order that changes, and more samples than there are."""
    asked = samples(6)
    drawn = spread_out(asked, 3, seed=0)
    assert len(drawn) == 3
    assert drawn == sorted(drawn, key=lambda sample: sample.id)
    assert drawn == spread_out(asked, 3, seed=0)
    assert spread_out(asked, 9, seed=0) == asked
