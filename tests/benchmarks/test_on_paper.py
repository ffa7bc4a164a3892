"""Costs of the full-size models, against sums by hand."""

from benchmarks import on_paper


def test_full_size_table() -> None:
    """Would catch a backbone's numbers mixed up, by hand for LLaVA-1.5-7B on POPE.

    637 tokens through 6.48 G weights of decoder layers, attention of 32 layers, the 0.41 TFLOP of vision tower and
    projector, and the last token's logits twice, with one decoding step: 8.88 TFLOP.
    """
    table = {line[:2]: line for line in on_paper.lines()}
    assert len(table) == 12
    layers = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    by_hand = 2 * 638 * layers + 32 * 4 * 4096 * (637**2 + 638) + 4 * 4096 * 32064 + 0.406e12
    assert abs(float(table["LLaVA-1.5-7B", "POPE"][3]) - by_hand / 1e12) < 0.01


def test_full_size_table_with_blink() -> None:
    """Would catch an extension counted in the wrong layers, by hand for LLaVA-1.5-7B.

    MME, layers 12-18: 576 more tokens in 20 layers of 643, one scan of 643 and six of 1,219 keys, one TokenSR,
    and the projections of 643 tokens once more where it fires. POPE,
    layer 18, all 18 questions together: the trunk once, four extensions through 13 layers and to the keys of the last,
    18 texts of 26 tokens, 14 layers of which see the extension, the last one for the last token alone, and 18 decoding steps.
    """
    table = {line[:2]: line for line in on_paper.lines()}
    weights = 4 * 4096**2 + 3 * 4096 * 11008
    expander = 2 * 576 * (25 * 4096 * 2048 + 9 * 2048 * 1024 + 1024 * 4096)
    mme = 20 * (2 * 576 * weights + 4 * 4096 * (1219**2 - 643**2)) + expander
    mme += 2 * 4096 * (643 + 6 * 1219) + 3 * 2 * 4096**2 * 643
    assert abs(float(table["LLaVA-1.5-7B", "MME"][4]) - (1 + mme / 8.965e12)) < 0.01
    qkv = 3 * 2 * 4096**2
    trunk = 0.406e12 + 31 * (2 * 611 * weights + 4 * 4096 * 611**2) + 611 * qkv
    extensions_ = 4 * (13 * (2 * 576 * weights + 4 * 4096 * 576 * 1187) + 576 * qkv + expander)
    texts = 18 * 26 * (31 * 2 * weights + 4 * 4096 * (18 * 637 + 13 * 1213) + qkv)
    texts += 18 * (2 * weights + 4 * 4096 * 1213) + 18 * 32 * 2 * weights
    together = (trunk + extensions_ + texts) / (18 * 8.88e12)
    assert abs(float(table["LLaVA-1.5-7B", "POPE"][6]) - together) < 0.002


def test_ways_to_see_a_region_closer() -> None:
    """Would catch a crop's layers left out, and a second pass that is cheaper than going on in the first."""
    table = {(way, layer): float(cost) for way, layer, cost, *_ in on_paper.ways()}
    for layer in ("2", "12", "18"):
        interpolated, module, crop = (
            table[way, layer] for way in ("interpolation", "TokenSR", "encoded crop")
        )
        assert interpolated < module < crop < table["zoom, two passes", "0"]
    # a crop goes through the layers below the expansion, which the extension then need not: about the same at every layer
    assert abs(table["encoded crop", "2"] - table["encoded crop", "18"]) < 0.1
