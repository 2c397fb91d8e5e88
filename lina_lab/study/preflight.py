"""What a command would be refused for, before anything is queued or trained; `lina plan` asks the same."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from lina_lab.config import CommandConfig, ResourcesConfig, TrialConfig, to_dict
from lina_lab.config.cautions import unsharded
from lina_lab.config.datasets import DATA_SETS
from lina_lab.config.extras import missing_package
from lina_lab.launch.machine import check_machine
from lina_lab.study.grid import Plan
from lina_lab.study.workspace import Workspace
from lina_lab.util.errors import ChangedError, StudyError, explained


def problems(plan: Plan, command: CommandConfig) -> Iterator[str]:
    """Sentences on what this machine, the ranks' layout, the data and the weights to start from do not allow; none: the
    cells can be trained."""
    resources = plan.study.resources
    try:
        check_machine(resources, command)
    except ValueError as error:
        yield str(error)
    for batch_size in dict.fromkeys(cell.config.data.batch_size for cell in plan.cells):
        try:
            resources.check_batch(batch_size)
        except ValueError as error:
            yield str(error)
    for sentence in dict.fromkeys(_problem_of_training(cell.config, resources) for cell in plan.cells):
        if sentence is not None:
            yield sentence
    found = (_problem_of_data(config) for config in _different_data(cell.config for cell in plan.cells))
    yield from dict.fromkeys(problem for problem in found if problem is not None)
    yield from dict.fromkeys(_problems_of_sources((cell.config for cell in plan.cells), plan.runs))
    yield from _problems_of_stages(plan)


def _different_data(configs: Iterable[TrialConfig]) -> list[TrialConfig]:
    """One trial for each combination of data set, shape of its images, condition and files for sampling."""
    kinds: dict[str, TrialConfig] = {}
    # Trials that differ in their seed alone share their sections.
    points: dict[tuple[int, ...], TrialConfig] = {}
    for config in configs:
        points.setdefault((id(config.data), id(config.model), id(config.sampling)), config)
    for config in points.values():
        model = config.model
        shape = (model.latent_channels, model.latent_size, model.num_classes, model.text_dim, model.text_length)
        kinds.setdefault(str((to_dict(config.data), shape, to_dict(config.sampling))), config)
    return list(kinds.values())


def _problem_of_training(config: TrialConfig, resources: ResourcesConfig) -> str | None:
    return missing_package(config) or unsharded(config, resources)


def _problem_of_data(config: TrialConfig) -> str | None:
    try:
        entry = DATA_SETS[config.data.name]
        if entry.needs_path or entry.installed:
            # What comes from another package need not have this check.
            check = getattr(entry.load(), "check_data", None)
            if check is not None:
                check(config)
        _check_files(config)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def _problems_of_sources(configs: Iterable[TrialConfig], runs: Path) -> Iterator[str]:
    """Sentences on weights from elsewhere that a trial cannot start from; each source and model is looked at once."""
    kinds: dict[str, TrialConfig] = {}
    for config in configs:
        if config.start.source is not None:
            # All of a trial must be equal to go on with its training, and the model alone to take weights.
            whole = config.start.state == "training"
            kinds.setdefault(str((config.start, to_dict(config if whole else config.model))), config)
    for config in kinds.values():
        # Reading checkpoints takes torch, which a plan without sources does without.
        from lina_lab.training.start import planned_problem

        if (problem := planned_problem(config, runs)) is not None:
            yield problem


def _problems_of_stages(plan: Plan) -> Iterator[str]:
    """Sentences on points that cannot start from the point that the study names; each pair is looked at once."""
    every, seen = {cell.config_hash: cell for cell in plan.cells}, set[tuple[str, str]]()
    for cell in plan.cells:
        source = every.get(cell.config.start.cell or "")
        if source is None or (pair := (plan.point_name(cell.axes), plan.point_name(source.axes))) in seen:
            continue
        seen.add(pair)
        from lina_lab.training.start import stage_problem

        if (problem := stage_problem(cell.config, source.config)) is not None:
            yield f"{pair[0]} cannot start from {pair[1]}: {problem}"


def _check_files(config: TrialConfig) -> None:
    sampling = config.sampling
    if not sampling.quality_images:
        return
    if sampling.quality_reference is not None and not Path(sampling.quality_reference).exists():
        raise ValueError(f"sampling.quality_reference={sampling.quality_reference} is not there")
    if sampling.quality_features == "inception":
        from lina_lab.evaluation.features import inception_file

        inception_file(sampling.inception)


def problem_of_store(workspace: Workspace) -> str | None:
    """Why the study's store would refuse the plan, as a sentence; None: it would not, or there is no store yet."""
    if not _has_store(workspace):
        return None
    import optuna

    from lina_lab.study.backend import open_storage
    from lina_lab.study.correction import under_way
    from lina_lab.study.identity import BASE, check_configuration

    try:
        with explained(workspace.runs):
            storage = open_storage(workspace.storage, workspace.runs)
            try:
                study = optuna.load_study(study_name=workspace.plan.study.name, storage=storage)
            except KeyError:
                return None
            if BASE in study.user_attrs:
                check_configuration(study, workspace.plan, workspace.folder)
    except ChangedError as error:
        return str(error) if under_way(study, workspace.folder) else None
    except StudyError as error:
        return str(error)
    return None


def _has_store(workspace: Workspace) -> bool:
    """Whether the study was run from here: a store must not be made only to be asked."""
    if not workspace.folder.is_dir():
        return False
    storage = workspace.storage or f"sqlite:///{workspace.runs / 'optuna.db'}"
    files = [Path(storage.removeprefix(prefix)) for prefix in ("sqlite:///", "journal:") if storage.startswith(prefix)]
    return all(file.exists() for file in files)
