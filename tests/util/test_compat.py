"""Each private door of another library, tried against the installed version; and that there are no others.

A test that fails after an update names what the new release has changed.
"""

import ast
import builtins
import importlib.util
import math
import re
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import optuna
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState
from sqlalchemy import inspect
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.profiler import ProfilerActivity, profile

from lina_lab.util.compat import lightning as lightning_doors
from lina_lab.util.compat.mlflow import make_tables, points_of_database, points_of_server, runs_of_database
from lina_lab.util.compat.optuna import (
    add_waiting,
    any_without_params,
    database_of,
    id_of,
    name_metrics,
    rewrite_params,
    storage_of,
    trial_rows,
)
from lina_lab.util.compat.submitit import batch_script
from lina_lab.util.compat.torch import ddp_logging_data, profile_events, save_file
from tests.system.servers import Server

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "journal"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage: str | optuna.storages.BaseStorage = f"sqlite:///{tmp_path / 'optuna.db'}"
    if request.param == "journal":
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal"))
        storage = optuna.storages.JournalStorage(backend)
    optuna.create_study(study_name="another", storage=storage)
    return optuna.create_study(study_name="x", storage=storage, directions=["minimize", "maximize"])


def test_optuna_s_storage_starts_and_ends_a_given_trial(study: optuna.Study) -> None:
    storage = storage_of(study)
    waiting = optuna.trial.create_trial(state=TrialState.WAITING, user_attrs={"cell": "a", "other": 1})
    trial_id = storage.create_new_trial(id_of(study), waiting)
    assert storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0, 2.0])
    (found,) = study.get_trials()
    assert (found.state, found.values) == (TrialState.COMPLETE, [1.0, 2.0])


def test_trials_added_at_once_are_those_that_optuna_adds_one_by_one(study: optuna.Study) -> None:
    """Seen by Optuna itself: numbers, states, attributes; and a worker can start each."""
    make = optuna.trial.create_trial
    wanted = [{"cell": f"{i}", "dim": 8 * i, "list": [1, None], "text": "ä"} for i in range(3)]
    study.add_trial(make(state=TrialState.WAITING, user_attrs=wanted[0]))
    assert add_waiting(study, []) == []
    added = add_waiting(study, wanted[1:])
    found = study.get_trials()
    assert [trial.number for trial in found] == [0, 1, 2]
    assert [trial._trial_id for trial in found[1:]] == added
    assert [(trial.state, trial.user_attrs) for trial in found] == [(TrialState.WAITING, one) for one in wanted]
    assert storage_of(study).set_trial_state_values(added[1], TrialState.RUNNING)
    rows = trial_rows(study)
    assert [row.attributes for row in rows] == wanted
    assert [row.started is None for row in rows] == [True, True, False]
    start = study.get_trials()[2].datetime_start
    assert start is not None
    assert rows[2].started == start.astimezone()


def test_parameters_are_those_that_optuna_writes_and_are_rewritten_in_a_database(study: optuna.Study) -> None:
    dim, gate = IntDistribution(8, 16), CategoricalDistribution(["none", "kv"])
    make, params = optuna.trial.create_trial, [{"dim": 8, "gate": "kv"}, {"dim": 16}]
    study.add_trial(make(state=TrialState.WAITING, params={"dim": 16}, distributions={"dim": dim}))
    added = add_waiting(study, [{"cell": "a"}, {"cell": "b"}], params, {"dim": dim, "gate": gate})
    study.add_trial(make(state=TrialState.WAITING, user_attrs={"cell": "c"}))
    found = study.get_trials()
    assert [trial.params for trial in found] == [{"dim": 16}, *params, {}]
    assert [trial.distributions for trial in found] == [{"dim": dim}, {"dim": dim, "gate": gate}, {"dim": dim}, {}]
    database = database_of(study)
    assert any_without_params(study, "cell") == (database is not None)
    more = {"dim": IntDistribution(8, 64), "gate": CategoricalDistribution(["none", "kv", "key"])}
    rewrite_params(study, {added[0]: {"dim": 32, "gate": "key"}, found[3]._trial_id: {"dim": 64}}, more)
    if database is not None:
        now = [{"dim": 16}, {"dim": 32, "gate": "key"}, {"dim": 16}, {"dim": 64}]
        assert [trial.params for trial in study.get_trials()] == now
        assert study.get_trials()[1].distributions == more
        assert not any_without_params(study, "cell")
    rewrite_params(study, {}, {})


def test_objectives_get_their_names_once_and_without_a_warning(study: optuna.Study) -> None:
    assert study.metric_names is None
    for _ in range(2):
        name_metrics(study, ["loss", "FID"])
    assert study.metric_names == ["loss", "FID"]


def test_optuna_s_tables_give_what_its_own_objects_give(study: optuna.Study) -> None:
    make = optuna.trial.create_trial
    study.add_trial(make(state=TrialState.WAITING, user_attrs={"cell": "a", "other": 1}))
    study.add_trial(make(state=TrialState.COMPLETE, values=[1.5, -2.0], user_attrs={"cell": "b", "deaths": 2}))
    study.add_trial(make(state=TrialState.FAIL))
    rows = trial_rows(study, ("cell", "deaths"))
    assert [row.state for row in rows] == [TrialState.WAITING, TrialState.COMPLETE, TrialState.FAIL]
    assert [row.attributes for row in rows] == [{"cell": "a"}, {"cell": "b", "deaths": 2}, {}]
    assert [row.values for row in rows] == [None, [1.5, -2.0], None]
    assert len({row.trial_id for row in rows}) == 3


def test_optuna_s_database_is_found_under_its_cache(study: optuna.Study, tmp_path: Path) -> None:
    database = database_of(study)
    assert (database is not None) == (tmp_path / "optuna.db").exists()
    if database is not None:
        assert {"trials", "trial_user_attributes", "trial_values"} <= set(inspect(database.engine).get_table_names())


def test_mlflow_s_store_makes_its_tables(tmp_path: Path) -> None:
    engine = make_tables(f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "artifacts"))
    assert {"experiments", "runs", "metrics", "params", "tags"} <= set(inspect(engine).get_table_names())
    engine.dispose()


def two_runs(uri: str) -> list[str]:
    client = MlflowClient(uri)
    experiment = client.create_experiment("x")
    runs = [client.create_run(experiment).info.run_id for _ in range(2)]
    for index, run in enumerate(runs):
        points = [Metric("loss", index + step / 10, 1000 + step, step) for step in range(3)]
        client.log_batch(run, [*points, Metric("loss", math.nan, 2000, 3), Metric("other", 1.0, 1000, 0)])
    return runs


def test_mlflow_s_table_of_metrics_gives_what_the_client_gives(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    runs = two_runs(uri)
    for runs_a_query in (1, 10):
        parts = list(points_of_database(uri, runs, ["loss"], runs_a_query=runs_a_query))
        rows = [row for part in parts for row in zip(*part, strict=True)]
        assert len(rows) == 8
        assert {metric for _, metric, _, _ in rows} == {0}
        for run in runs:
            expected = {(p.step, p.value) for p in MlflowClient(uri).get_metric_history(run, "loss")}
            finite = {(step, value) for of, _, step, value in rows if runs[of] == run and math.isfinite(value)}
            assert finite == {(step, value) for step, value in expected if math.isfinite(value)}
        assert sum(math.isnan(row[3]) for row in rows) == 2


@pytest.mark.system
def test_mlflow_s_tables_give_the_runs_that_the_client_gives(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    two_runs(uri)
    client = MlflowClient(uri)
    mine, other = client.get_experiment_by_name("x"), client.create_experiment("y")
    assert mine is not None
    for index in range(3):
        run = client.create_run(mine.experiment_id, start_time=1000 + index, tags={"kind": "cell", "n": str(index)})
        client.log_param(run.info.run_id, "lr", index)
        client.log_batch(run.info.run_id, [Metric("loss", value, 1, step) for step, value in enumerate((2.0, index))])
        client.log_metric(run.info.run_id, "bad", math.nan)
    client.set_terminated(run.info.run_id, "FAILED")
    for experiment, tag in ((mine.experiment_id, "cell"), (mine.experiment_id, "study"), (other, "cell")):
        client.log_param(client.create_run(experiment, tags={"kind": tag}).info.run_id, "lr", 9)
    client.delete_run(client.create_run(mine.experiment_id, tags={"kind": "cell"}).info.run_id)
    expected = client.search_runs([mine.experiment_id], "tags.`kind` = 'cell'")
    found = list(runs_of_database(uri, mine.experiment_id, "kind", "cell"))
    assert len(found) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert vars(ours.info) == dict(theirs.info)
        assert (ours.data.tags, ours.data.params) == (theirs.data.tags, theirs.data.params)
        assert repr(ours.data.metrics) == repr(theirs.data.metrics)
    lean = runs_of_database(uri, mine.experiment_id, "kind", "cell", no_params_with="n")
    assert [run.data.params for run in lean] == [{} if "n" in run.data.tags else {"lr": "9"} for run in expected]


def test_mlflow_s_server_gives_the_points_of_many_runs(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.start()
    try:
        runs = two_runs(server.uri)
        found = points_of_server(server.uri, runs, "loss", most=25_000)
    finally:
        server.stop()
    assert {(run, step) for run, _, step, _ in found} == {(run, step) for run in runs for step in range(4)}
    assert {metric for _, metric, _, _ in found} == {"loss"}


QUIET = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:GPU available but not used.*",
    "ignore:.*`srun` command is available.*",
)
"""Lightning's advice for machines that have more than a test uses."""


class Small(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        return self.layer(batch).sum()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Recorder(L.pytorch.profilers.Profiler):
    def __init__(self) -> None:
        super().__init__()
        self.actions: set[str] = set()

    def start(self, action_name: str) -> None:
        self.actions.add(action_name)

    def stop(self, action_name: str) -> None:
        """Nothing."""

    def summary(self) -> str:
        return ""


@pytest.fixture
def averaging(tmp_path: Path) -> tuple[L.pytorch.callbacks.WeightAveraging, Small, Recorder]:
    callback, module, recorder = L.pytorch.callbacks.WeightAveraging(), Small(), Recorder()
    data = torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=3,
        callbacks=[callback],
        profiler=recorder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, data)
    return callback, module, recorder


@QUIET
def test_lightning_s_averaged_model_is_reached_swapped_and_replaced(
    averaging: tuple[L.pytorch.callbacks.WeightAveraging, Small, Recorder],
) -> None:
    callback, module, _ = averaging
    averaged = lightning_doors.averaged_module(callback)
    assert isinstance(averaged, Small)
    assert lightning_doors.averaged_model(callback).module is averaged
    with torch.no_grad():
        module.layer.weight.fill_(1.0)
        averaged.layer.weight.fill_(2.0)
    lightning_doors.swap_models(callback, module)
    assert [float(of.layer.weight.detach()[0, 0]) for of in (module, averaged)] == [2.0, 1.0]
    mine = AveragedModel(Small())
    lightning_doors.set_averaged_model(callback, mine)
    assert lightning_doors.averaged_model(callback) is mine


def test_lightning_has_no_averaged_model_before_training() -> None:
    with pytest.raises(RuntimeError, match="from the start of training"):
        lightning_doors.averaged_model(L.pytorch.callbacks.WeightAveraging())


@QUIET
def test_lightning_s_profiled_actions_have_their_names(
    averaging: tuple[L.pytorch.callbacks.WeightAveraging, Small, Recorder],
) -> None:
    assert {lightning_doors.FETCH, lightning_doors.TRAIN} <= averaging[2].actions


def test_torch_s_ddp_measures_communication(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Linear(2, 1))
        for _ in range(3):
            model(torch.ones(1, 2)).sum().backward()
        measured = ddp_logging_data(model)
    finally:
        torch.distributed.destroy_process_group()
    for name in ("avg_backward_comm_time", "avg_backward_compute_comm_overlap_time"):
        assert int(measured[name]) >= 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
@pytest.mark.parametrize("numbers", [1, 1000, 1_000_000])
def test_a_file_of_torch_that_does_not_fit_raises_the_system_s_error(numbers: int) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        save_file({"numbers": torch.zeros(numbers)}, Path("/dev/full"))


def test_torch_s_profile_has_events_of_memory() -> None:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = torch.zeros(1000)
    changes = [event for event in profile_events(profiled) if event.name() == "[memory]"]
    assert sum(event.nbytes() for event in changes) == 4 * kept.numel()
    assert all(event.start_ns() > 0 for event in changes)


def test_submitit_writes_the_batch_file_of_a_job() -> None:
    script = batch_script(Path("/logs"), {"job_name": "x", "nodes": 2, "setup": ["module load cuda"]})
    assert {"#SBATCH --job-name=x", "#SBATCH --nodes=2", "module load cuda"} <= set(script.splitlines())
    assert "-m submitit.core._submit /logs" in script
    assert "-m submitit.core._submit '/my logs'" in batch_script(Path("/my logs"), {"job_name": "x"})
    assert importlib.util.find_spec("submitit.core._submit") is not None


def test_transformers_says_which_configurations_have_a_text_encoder() -> None:
    transformers = pytest.importorskip("transformers")
    from lina_lab.util.compat.transformers import has_text_encoder

    assert has_text_encoder(transformers.T5Config())
    assert not has_text_encoder(transformers.ViTConfig())


PYTHON_S_OWN = {name for kind in (type, object, BaseException, type(ast)) for name in dir(kind)} | {
    *("_exit", "__cause__", "__context__", "__name__", "__file__", "__post_init__", "__version__"),
    "__dataclass_fields__",
    *(name for name in dir(builtins) if name.startswith("_")),
}
"""Names with underscores that the language promises."""


def sources() -> list[Path]:
    folders = ("lina_lab", "analysis", "benchmarks")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return [path for path in found if ROOT / "lina_lab/util/compat" not in path.parents]


def own_names(tree: ast.AST) -> Iterator[str]:
    """Names with underscores that a module of the project defines itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def private_uses(tree: ast.AST, own: set[str]) -> Iterator[str]:
    """Private names of other libraries that a module uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr not in own | PYTHON_S_OWN:
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and not str(node.module).startswith("lina_lab"):
            parts = [*str(node.module).split("."), *(alias.name for alias in node.names)]
            yield from (part for part in parts if part.startswith("_") and part != "__future__")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            yield from (n for n in map(_text, node.args) if n.startswith("_") and n not in own | PYTHON_S_OWN)
        elif re.fullmatch(r"[a-z]\w*(\.\w+)*\._[a-z]\w*", _text(node)):
            yield _text(node)


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_no_other_module_uses_a_private_name_of_another_library() -> None:
    trees = {path: ast.parse(path.read_text()) for path in sources()}
    own = {name for tree in trees.values() for name in own_names(tree)}
    found = {str(path.relative_to(ROOT)): sorted(set(private_uses(tree, own))) for path, tree in trees.items()}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    [
        "study._storage",
        "from submitit.slurm.slurm import _make_sbatch_string",
        "getattr(storage, '_backend', storage)",
        "cls.__pydantic_fields__",
        "import_module('submitit.core._submit')",
    ],
)
def test_a_planted_private_name_is_found(line: str) -> None:
    assert list(private_uses(ast.parse(line), {"_own"}))


def test_the_libraries_with_private_doors_have_upper_bounds() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    entries = project["dependencies"] + [e for part in project["optional-dependencies"].values() for e in part]
    for path in (ROOT / "lina_lab/util/compat").glob("[a-z]*.py"):
        library = path.stem.partition("_")[0]
        (entry,) = (e for e in entries if re.match(rf"{library}[<>=\[]", e))
        assert "<" in entry, entry
