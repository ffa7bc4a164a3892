"""Overrides of commands: misspelt keys and options and what was meant, and what Hydra refuses."""

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from blink.runs.config.groups import CONF_DIR
from blink.runs.config.overrides import check_overrides
from blink.runs.values import UserError


@pytest.mark.parametrize(
    ("command", "overrides", "message"),
    [
        ("eval", ["tau_epx=0.5"], r"unknown key 'tau_epx' \(did you mean tau_exp"),
        ("eval", ["scenes.image=3"], r"unknown key 'scenes.image' \(did you mean scenes.images"),
        ("eval", ["max_new_token=3"], r"did you mean bench.max_new_tokens"),
        ("eval", ["bench=pope,mme", "modle=tiny"], r"unknown key 'modle' \(did you mean model"),
        (
            "eval",
            ["model=llava_15_7b"],
            r"model=llava_15_7b: there is no such option \(did you mean llava15_7b.*tiny",
        ),
        ("eval", ["bench=pope,popper"], r"bench=popper: there is no such option \(did you mean pope"),
        ("eval", ["trainer=ddp"], r"unknown key 'trainer'"),
        ("eval", ["zzzzzzzz=1"], r"unknown key 'zzzzzzzz'; --help"),
        ("train", ["layer=1", "optimizer.learning_rat=1e-4"], r"did you mean optimizer.learning_rate"),
        ("train", ["layer=1", "lr=1e-4"], r"unknown key 'lr'"),
        ("train", ["data.split=x"], r"unknown key 'data.split'"),
        ("train", ["logger=null"], r"logger=null: there is no such option; choose one of csv, none"),
        ("train", ["trainer=5"], r"trainer=5: there is no such option"),
        ("train", ["not an override"], r"'not an override' is no override: write KEY=VALUE"),
        ("eval", ["token_sr=a=b"], r"goes into two pairs of quotes: \"token_sr='a=b'\""),
        ("eval", ["data.root=it's [here"], r"quotes: \"data.root='it\\'s \[here'\""),
    ],
)
def test_misspelt(command: str, overrides: list[str], message: str) -> None:
    """Would catch a misspelt key that is reported without the right one, or not before weights are read."""
    for multirun in (True, False):
        with pytest.raises(UserError, match=message):
            check_overrides(command, overrides, multirun=multirun)
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["optimizer={a:1}"],
            "optimizer={a:1}: expected keys below it that there are, as in optimizer.KEY=VALUE",
        ),
        (["token_sr=[a]"], r"token_sr=\[a\]: expected keys below it"),
        (["hydra.job.chdir=maybe"], "hydra.job.chdir=maybe: Value 'maybe' is not a valid bool"),
        (["hydra.nothing=1"], "hydra.nothing=1: Hydra has no such key; --cfg hydra lists those"),
        (
            ["hydra/launcher=nothing"],
            "Could not find 'hydra/launcher/nothing' Available options .* one_pass [^:]*$",
        ),
        (["hydra.searchpath=[nowhere]"], "hydra.searchpath=nowhere: expected folders of configs"),
        (
            ["seed=1,2"],
            r'^seed=1,2: several values .*: add --multirun; one list is seed=\[1,2\], one text "seed=\'1,2\'"$',
        ),
        (["seed=range(1,3)"], r"^seed=range\(1,3\): several values are for several runs: add --multirun$"),
        (["objective=kl,both"], r"^objective=kl,both: several values are for several runs: add --multirun$"),
        (["bench=null"], "unknown key 'bench'"),
        (["=5"], "unknown key ''"),
        (["+layer=3"], "layer"),
        (["~nowhere"], "nowhere"),
    ],
)
def test_what_hydra_refuses_is_one_message(overrides: list[str], message: str) -> None:
    """Would catch Hydra's own report, of several lines and with exit code 1, for a mistake like any other."""
    with pytest.raises(UserError, match=message):
        check_overrides("train", ["layer=1", *overrides], multirun=False)
    check_overrides("train", ["layer=1", "hydra.run.dir=x", "+trainer.max_time=1"], multirun=False)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~reference", "^~reference: reference has no value, and a key is not removed; leave this out"),
        ("~reference=null", "^~reference=null: reference has no value"),
        ("~layer", "^~layer: layer has no value"),
        ("~seed=3", "^~seed=3: a key is not removed; seed=VALUE changes it"),
        ("~refrence", r"^unknown key 'refrence' \(did you mean reference"),
        ("~objective=both", "^~objective=both: an option is not removed; objective=OPTION chooses another"),
        ("+objective=both", "^[+]objective=both: objective has one option; objective=both chooses another"),
        ("objective@data=both", "options of objective go into objective alone; leave @data out"),
        ("hydra.sweeper.max_batch_size=many", "hydra.sweeper.max_batch_size='many': expected a whole number"),
        ("hydra.sweeper.params=many", "hydra.sweeper.params=many: expected keys of the command"),
    ],
)
@pytest.mark.parametrize("multirun", [True, False])
def test_overrides_of_other_forms(override: str, message: str, multirun: bool) -> None:
    """Would catch Hydra's words for these ("Could not delete from config"), and in a multirun its report of several lines."""
    with pytest.raises(UserError, match=message):
        check_overrides("train", ["layer=1,2", override] if multirun else [override], multirun=multirun)


@pytest.mark.parametrize("multirun", [True, False])
def test_hydras_own_keys(multirun: bool, tmp_path: Path) -> None:
    """Would catch Hydra's traceback for a folder that is a file, and for a key or option of its own that is not there."""
    file = tmp_path / "file"
    file.touch()
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        for place in (file, file / "below"):
            with pytest.raises(UserError, match=f"{key}={place}: {file} is a file; expected a folder"):
                check_overrides("eval", [f"{key}={place}"], multirun=multirun)
        check_overrides("eval", [f"{key}={tmp_path}/new/folder"], multirun=multirun)
    for override in ("hydra.nothing=1", "hydra/sweeper=nothing"):
        with pytest.raises(UserError, match="nothing"):
            check_overrides("eval", ["seed=0,1", override] if multirun else [override], multirun=multirun)


@pytest.mark.parametrize(
    ("command", "override"),
    [
        ("eval", "method=[blink,zoom]"),
        ("eval", "bench=[pope,mme]"),
        ("train", "logger=[csv,none]"),
        ("analyze", "figure=[tokensr,attention_maps]"),
    ],
)
def test_several_options_of_a_group(command: str, override: str) -> None:
    """Would catch options whose keys are mixed in silence, so that a run is neither's."""
    key, _, value = override.partition("=")
    expected = f"expected one option.*{key}={value.strip('[]')} --multirun"
    for multirun in (True, False):
        with pytest.raises(UserError, match=expected):
            check_overrides(command, [override], multirun=multirun)
        check_overrides("tune", ["bench=[pope,gqa]"], multirun=multirun)


@pytest.mark.parametrize(
    ("command", "overrides"),
    [
        ("eval", []),
        (
            "eval",
            ["tau_exp=0.4,0.5", "patches=2,3", "method=vanilla,interp", "hydra.sweep.dir=x", "limit=null"],
        ),
        ("eval", ["data=hub", "data.id=a/b", "model=llava15_7b", "hydra/launcher=basic", "layer=[1,2]"]),
        ("eval", ["layer=range(1,4)", "bench=glob(*)", "bench.max_new_tokens=1"]),
        ("train", ["+trainer.limit_val_batches=1", "~logger", "trainer=ddp_cpu", "trainer.devices=2"]),
        ("train", ["optimizer={weight_decay:0.1}", "callbacks=[early_stopping,device_stats]"]),
    ],
)
def test_known(command: str, overrides: list[str]) -> None:
    """Would catch a right key refused: of a chosen group, of Hydra, swept, added or removed."""
    check_overrides(command, overrides, multirun=True)
    if not any(swept in override for override in overrides for swept in ("0.4,0.5", "range", "glob")):
        check_overrides(command, overrides, multirun=False)


def test_conf_dir_holds_the_training_config() -> None:
    """Catches a CONF_DIR that points beside the configs, so that no command starts."""
    assert (CONF_DIR / "train.yaml").is_file()


@pytest.mark.parametrize(
    ("group", "content", "message"),
    [
        (
            "experiment",
            "# Mine.\n# @package _global_\ntau_exp: 0.7\n",
            r"experiment=mine: .*mine\.yaml has the line '# @package _global_': .*or in the set: of a row",
        ),
        ("experiment", "defaults:\n  - override /method: interp\ntitle: t\n", r"mine\.yaml has defaults:"),
        (
            "method",
            "# @package _global_\ntau_exp: 0.7\n",
            r"method=mine: .*'# @package _global_'.*as overrides$",
        ),
        ("judge", "#@package method\nkind: local\n", r"judge=mine: .*'# @package method'"),
        (
            "method",
            "name: interp\nname: encode\n",
            r"method=mine: .*mine\.yaml is not YAML .*duplicate key name",
        ),
        ("method", "name: [\n", r"method=mine: .*mine\.yaml is not YAML"),
    ],
)
def test_own_options_that_would_count_for_nothing(
    group: str, content: str, message: str, tmp_path: Path
) -> None:
    """Would catch keys of the user's own file that a default or a preset replaces in silence."""
    (tmp_path / group).mkdir()
    file = tmp_path / group / "mine.yaml"
    file.write_text(content)
    given = [f"hydra.searchpath=[file://{tmp_path}]", f"{group}=mine"]
    for multirun in (True, False):
        with pytest.raises(UserError, match=message) as caught:
            check_overrides("eval", given, multirun=multirun)
        assert "\n" not in str(caught.value)
    file.write_text("# @package _group_\n" + (CONF_DIR / "method/interp.yaml").read_text())
    check_overrides("eval", given, multirun=True)
