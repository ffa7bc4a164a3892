"""The train command: what it refuses, in one line, with exit code 2, and before any weight is read."""

from pathlib import Path

import pytest

from tests.processes import python
from tests.training_runs import common, run

pytestmark = [
    pytest.mark.usefixtures("in_empty_folder"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),  # Lightning's use of torch
]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("layer=4", "layer=4: .* has layers 0 to 3"),
        ("layer=3-1", "run backwards"),
        ("data.root=nowhere", "nowhere does not exist"),
        ("data.root=empty", "empty holds no images"),
        ("data.root=[empty.png]", r"empty\.png: an empty file"),
        ("data=hub", "needs data.id"),
        (
            "data=hub data.id=a/b data.root=c",
            "data.id=a/b would change nothing: images come from data.root=c",
        ),
        (
            "data=hub data.split=test data.root=c",
            "data.split=test would change nothing: images come from data.root=c",
        ),
        ("data.exif=apply data.root=null", "data.exif=apply would change nothing: images are drawn"),
        ("data.exif=turn", "data.exif='turn': expected one of ignore, apply"),
        ("data.allow_outside=1", "data.allow_outside=1: expected true or false"),
        ("data=hub data.root=null data.id=nobody/nothing", "data.id=nobody/nothing .*cannot be loaded"),
        ("data=hub data.root=null data.id=5", "data.id=5: expected a text"),
        ("data=scenes images=1000001", "images=1000001: data=scenes has 1,000,000 pictures"),
        ("data=scenes held_out=1000001", "held_out=1000001: data=scenes has 1,000,000 pictures"),
        ("model.pad=yes", "model.pad='yes': expected one of True, False, None"),
        ("model.max_pixels=5000", "model.max_pixels=5000 is for models"),
        ("model.device_map=auto", "model.device_map='auto': expected one of None"),
        ("model.path=nowhere", "no backbone at 'nowhere'"),
        ("model.template=unknown", "unknown prompt template"),
        ("model.device=cuda", "model.device='cuda'"),
        ("epochs=0", "epochs=0: expected a whole number of at least 1"),
        ("seed=a", "seed='a'"),
        ("global_pairs=6", "global_pairs=6 cannot be shared out"),
        ("optimizer.warmup=3", "optimizer.warmup=3"),
        ("objective.temperature=0", "objective.temperature=0"),
        ("objective.space=logits", "objective.space='logits'"),
        ("objective.kl=0", "objective.kl=0 and objective.answer=0: nothing would be trained"),
        ("objective.answer=-1", "objective.answer=-1: expected a number of at least 0"),
        (
            "objective=answer",
            "objective.answer needs questions with their answers: data=scenes, or in data.root a file",
        ),
        (
            "objective=answer data=scenes data.root=null data.cache_features=f",
            "data.cache_features=f: answers run through the whole backbone",
        ),
        ("patches=3", "patches=3 would change nothing: objective.answer=0 trains under no policy"),
        ("positions=region", "positions=region would change nothing"),
        ("positions=behind", "positions='behind': expected one of append, region"),
        ("objective=both data=scenes data.root=null patches=9", "patches=9 does not fit the 6 x 6 grid"),
        ("token_sr.kernels=[5,4,1]", "only odd sizes"),
        ("token_sr.hidden=[8]", "one kernel more than hidden"),
        ("token_sr.hidden=8", "token_sr.hidden=8: expected a list"),
        ("token_sr.kernels=5", "token_sr.kernels=5: expected a list"),
        (
            "token_sr.kind=deconv",
            "token_sr.kind='deconv': expected one of conv, residual, mlp, attention, cond",
        ),
        ("token_sr.heads=2", "token_sr.heads=2: kind='conv' has no heads; it takes hidden, kernels"),
        ("token_sr.kind=attention token_sr.heads=3", "token_sr.heads=3 and hidden=.16,.: heads must divide"),
        ("data.root=5", "data.root=5: expected a path"),
        ("data.cache_features=5", "data.cache_features=5: expected a folder"),
        ("trainer.accumulate_grad_batches=0", "accumulate_grad_batches=0"),
        ("trainer.accumulate_grad_batches=auto", "accumulate_grad_batches='auto': expected a whole number"),
        ("device_pairs=3", "device_pairs=3: expected a whole number of at least 4"),
        (
            "device_pairs=4 global_pairs=16 trainer.accumulate_grad_batches=2",
            "puts 8 of global_pairs=16 on each of 1 device.* device_pairs=4 allows fewer",
        ),
        ("trainer=ddp_cpu trainer.devices=3", "global_pairs=8 cannot be shared out: 3 process"),
        ("ckpt=nowhere.ckpt", "ckpt=nowhere.ckpt does not exist"),
        ("+trainer.max_step=3", "unexpected keyword argument 'max_step'"),
        ("+trainer.max_epochs=3", "trainer.max_epochs=3: the command sets that itself; give epochs= instead"),
        ("+trainer.callbacks=[]", r"trainer.callbacks=\[\]: .*; give callbacks=, a group of configs"),
        ("+trainer.logger=true", "trainer.logger=True: .*; give logger= instead"),
        ("+trainer.enable_checkpointing=false", "give checkpoint_every= instead"),
        ("+trainer.default_root_dir=x", "give outputs= instead"),
        ("+trainer.enable_model_summary=true", "the command sets that itself; leave it out"),
        ("+trainer.limit_val_batches=0", "trainer.limit_val_batches=0: expected a number above 0"),
        ("+trainer.detect_anomaly=maybe", "trainer.detect_anomaly='maybe': expected true or false"),
        ("+trainer.min_steps=few", "trainer.min_steps='few': expected a whole number"),
        ("+trainer.profiler=5", "trainer.profiler=5: expected a text"),
        (
            "callbacks=early_stopping callbacks.early_stopping.patience=some",
            "callbacks.early_stopping.patience='some': expected a whole number of at least 0",
        ),
        ("reference=nowhere", "reference=nowhere: "),
        ("trainer.max_steps=0", "trainer.max_steps=0: expected a whole number of at least 1; or -1"),
        ("trainer.gradient_clip_val=nan", "trainer.gradient_clip_val=nan: expected a number of at least 0"),
        ("trainer.val_check_interval=12", "val_check_interval=12: the run has 11 batches"),
        ("trainer.deterministic=foo", "trainer.deterministic='foo': expected one of True, False, warn, None"),
        ("trainer.precision=foo", "trainer: .*foo"),
        ("trainer._target_=builtins.dict", "makes a dict; expected a Trainer"),
        ("trainer._target_=no.where", "trainer: Error loading 'no.where'"),
        ("logger._target_=builtins.dict", "logger._target_='builtins.dict' makes a dict; expected a Board"),
        ("+logger.mode=online", "logger: .*unexpected keyword argument 'mode'"),
        (
            "+callbacks.a._target_=builtins.dict",
            "callbacks.a._target_='builtins.dict' makes a dict; expected a Callback",
        ),
        ("+callbacks.a._target_=lightning.pytorch.callbacks.EarlyStopping", "callbacks.a: .*monitor"),
        ("+callbacks.a.monitor=x", "callbacks.a._target_ is missing"),
        ("optimizer.learning_rate=inf", "optimizer.learning_rate=inf: expected a number"),
        ("objective.temperature=nan", "objective.temperature=nan: expected a number"),
        ("optimizer=5", "optimizer=5: expected keys below it, as in optimizer.KEY=VALUE"),
        ("~optimizer.warmup", "optimizer.warmup is missing"),
        ("~logger", "logger is missing"),
        ("model.path=null", "model.path=None: expected a text; a folder or hub id"),
        ("data.root=''", "data.root='': expected a path"),
        ("data.root=[]", r"data.root=\[\]: expected a path"),
        ("fresh=maybe", "fresh='maybe': expected true or false"),
        ("token_sr.hidden=2048", r"token_sr.hidden=2048: expected a list of whole numbers, as \[2048,1024\]"),
        ("token_sr.kernels=[999999999,3,1]", "a convolution of more than 1e\\+12 weights"),
        (
            "token_sr.hidden=[300000,300000]",
            "weights, gradients and moments take 12,.*GB, and this machine has",
        ),
        ("epochs=1000000000000000000", "that is 1e\\+19 batches"),
        ("workers=100000", "workers=100000: expected at most 1024"),
        ("outputs=empty.png", "empty.png/train: no folder can be made there"),
        ("data.cache_features=empty.png", "data.cache_features=empty.png is a file"),
        ("data.cache_features=/proc/x", "/proc/x: no folder can be made there"),
        ("images=1", "takes 2"),
    ],
)
def test_bad_input_is_one_line(override: str, message: str, llava_folder: Path, pictures: Path) -> None:
    """Catches a traceback, or weights loaded first, where a setting cannot work."""
    Path("empty").mkdir()
    Path("empty.png").touch()
    overrides = [*common(llava_folder, pictures), "layer=1"]
    if override.startswith("data="):
        overrides = [one for one in overrides if not one.startswith("data.root")]
    with pytest.raises(SystemExit, match=message) as stopped:
        run(*overrides, *override.split())
    assert "\n" not in str(stopped.value)


def test_layer_must_be_given() -> None:
    """Catches a default layer that a user did not choose, and a traceback for its lack."""
    ended = python("-m", "blink.train", "logger=none")
    assert ended.returncode == 2
    assert ended.stderr.strip() == "error: layer must be given: layer=VALUE; --help says what it is"


def test_processes_that_would_each_train_by_themselves(
    llava_folder: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a whole training in each of torchrun's processes, all of which write the same checkpoints."""
    for key, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(
        SystemExit, match="2 processes were started, by torchrun or alike, and the trainer has 1"
    ):
        run(*common(llava_folder, pictures), "layer=1")
    assert not Path("outputs").exists()
