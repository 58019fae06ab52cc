"""The training stages of a Magic Pyramid, as a :class:`transformers.Trainer`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer

from hf_integration.base_model import PyramidModel
from hf_integration.class_weights import ClassWeights, check_class_weights, weights_of_classes
from hf_integration.configuration_checks import is_regression
from hf_integration.exit_training import CachedExits, collect_exit_states, distillation_loss
from hf_integration.lexical_training import cross_fitted_logits, fit_lexical, weigh_texts
from hf_integration.losses import class_loss, classification_loss
from hf_integration.modeling_magic_pyramid import MagicPyramidForSequenceClassification
from hf_integration.opinions import fit_opinions
from mp_plugins import argument_error

__all__ = ["JOINT", "STAGES", "MagicPyramidTrainer"]

STAGES = ("finetune", "soft", "hard", "exits")
JOINT = "joint"

# What each stage trains, out of the backbone with its head, the pruner, the internal classifiers and the criterion.
_TRAINED = {
    "finetune": frozenset({"backbone"}),
    "soft": frozenset({"pruner"}),
    "hard": frozenset({"backbone"}),
    "exits": frozenset({"classifiers", "criterion"}),
    "joint": frozenset({"backbone", "pruner", "classifiers", "criterion"}),
}
# Texts from whose states `joint` takes the scale of what its internal classifiers read.
_SCALE_TEXTS = 512
# What is left of the temperature at the end of `joint`, which no stage with hard decisions follows.
_LAST_TEMPERATURE = 0.1


class MagicPyramidTrainer(Trainer):
    """Runs one stage; give each stage a trainer of its own, so that no optimiser state crosses over.

    - ``finetune``: plain BERT, without pruning.
    - ``soft``: keep thresholds alone, so that without pruning the model stays what it was: trained along with them, the
      weights lost 1.2 points of accuracy on Reuters R8. A token's weight is ``sigmoid((r - rho) / temperature)``; it
      enters the attention of the later layers, so that a weight of 0 is removal. The loss grows with the share of
      tokens kept.
    - ``hard``: weights alone, with tokens really dropped at the learned thresholds. A classifier of texts learns from
      the labels and from what it answered before it was pruned.
    - ``exits``: internal classifiers (and a learned exit criterion) alone, on the frozen backbone, from the last
      layer's answers and the labels. The backbone runs over the data once. Heads that read every token have no exits.

    Args:
        *args: as for :class:`transformers.Trainer`.
        stage: one of the four.
        head_learning_rate: of the pooler and the classifier in ``finetune``, which start untrained and lag behind at
            the backbone's; the same as the backbone's by default.
        threshold_reach: how far a keep threshold (or a weight of a gate) travels in ``soft`` if its gradient always
            points one way, as that of ``keep_penalty`` does, on a scale on which the average token has an importance
            of 1. Its learning rate follows from this and the number of steps, for a schedule that falls to 0 linearly;
            a constant one takes it twice as far.
        keep_penalty: weight of the share of tokens kept, mean over pruning layers and samples, in the loss of
            ``soft``.
        soft_temperature: of the sigmoid in ``soft``.
        distillation_weight: share of the distillation term in ``exits``, ``hard`` and ``joint``, 0 to 1.
        distillation_temperature: of that term.
        class_weights: of the classes in every loss that labels give: one positive number each, or ``"balanced"`` for
            the inverse of their frequency in the training data. Not in evaluation, whose losses stay comparable.
        calibration_dataset: like ``train_dataset``, of texts that no stage was trained on. At the end of ``exits`` and
            ``joint`` it is fitted on them how much the states and the words of a text count at each exit
            (:func:`~hf_integration.opinions.fit_opinions`); without them, equally much.
        **kwargs: as for :class:`transformers.Trainer`.

    Raises:
        mp_plugins.ArgumentError: an argument is out of range, or the model is not a Magic Pyramid with a head, or has
            none of what the stage trains.
    """

    def __init__(
        self,
        *args: Any,
        stage: str = "finetune",
        head_learning_rate: float | None = None,
        threshold_reach: float = 0.1,
        keep_penalty: float = 0.1,
        soft_temperature: float = 0.1,
        distillation_weight: float = 0.5,
        distillation_temperature: float = 1.0,
        class_weights: ClassWeights = None,
        calibration_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        if stage not in _TRAINED:
            known = ", ".join(_TRAINED)
            raise argument_error("stage", f"must be one of {known}", repr(stage), "see MagicPyramidTrainer")
        if head_learning_rate is not None:
            _check_positive("head_learning_rate", head_learning_rate)
        _check_positive("threshold_reach", threshold_reach)
        _check_positive("soft_temperature", soft_temperature)
        _check_positive("distillation_temperature", distillation_temperature)
        if not keep_penalty >= 0:
            raise argument_error("keep_penalty", "must be at least 0", keep_penalty, "0 leaves the thresholds free")
        if not 0 <= distillation_weight <= 1:
            raise argument_error(
                "distillation_weight", "must be from 0 to 1", distillation_weight, "0 uses the labels alone"
            )
        super().__init__(*args, **kwargs)
        if not isinstance(self.model, PyramidModel) or self.model.kind == "Model":
            raise argument_error(
                "model",
                "must be a Magic Pyramid model with a head",
                f"a {type(self.model).__name__}",
                "make one with attach()",
            )
        if stage in ("exits", JOINT) and not isinstance(self.model, MagicPyramidForSequenceClassification):
            raise argument_error(
                "stage",
                f"must not be {stage!r} for a head that reads every token",
                repr(stage),
                "it has no early exit",
            )
        check_class_weights(class_weights, self.model)
        self.stage = stage
        self.head_learning_rate = head_learning_rate
        self.threshold_reach = threshold_reach
        self.keep_penalty = keep_penalty
        self.soft_temperature = soft_temperature
        self.distillation_weight = distillation_weight
        self.distillation_temperature = distillation_temperature
        self.class_weights = class_weights
        self.calibration_dataset = calibration_dataset
        self.cached_exits: CachedExits | None = None
        self._kept_share: float | None = None
        self._weights: Tensor | None = None
        self._teacher: Any = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Run the stage; arguments and result as of :meth:`transformers.Trainer.train`."""
        with self._stage_settings():
            self._weights = self._weights_of_classes()
            if self.stage == "exits":
                self._prepare_exits()
            elif self.stage == JOINT:
                self._prepare_joint()
            elif self.stage == "hard":
                self._prepare_hard()
            outcome = super().train(*args, **kwargs)
            if self.stage == JOINT:
                self._solve_lexical(self._collected())
            if self.stage in ("exits", JOINT) and self.calibration_dataset is not None:
                self._fit_opinions()
            return outcome

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Give the pruner, and the heads, groups of their own with other learning rates."""
        fresh = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if fresh and self.stage in ("finetune", JOINT) and self.head_learning_rate is not None:
            prefixes = (*self.model.family.head_prefixes, "qa_outputs.", "internal_classifiers.", "exit_criterion.")
            heads = [parameter for name, parameter in self.model.named_parameters() if name.startswith(prefixes)]
            trained = [parameter for parameter in heads if parameter.requires_grad]
            _regroup(optimizer, trained, self.head_learning_rate, self.args.weight_decay)
        if fresh and self.stage in ("soft", JOINT):
            # Without decay, which would pull the thresholds towards keeping all. Its rate is set with the schedule.
            _regroup(optimizer, self._pruner_parameters(), self.args.learning_rate, 0.0)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Set the learning rate of the pruner, which depends on the number of steps, before the schedule starts."""
        own = {id(parameter) for parameter in self._pruner_parameters()}
        groups = (self.optimizer if optimizer is None else optimizer).param_groups
        if self.stage in ("soft", JOINT) and self.lr_scheduler is None:
            for group in groups:
                if group["params"] and id(group["params"][0]) in own:
                    # A step of Adam is about as long as the rate, and the mean rate of the schedule half of the first.
                    group["lr"] = 2 * self.threshold_reach / max(1, num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Return the loss of the stage; outside training, the model's own."""
        if not model.training:
            loss: Tensor | tuple[Tensor, Any] = super().compute_loss(model, inputs, return_outputs, **kwargs)
            return loss
        if self.stage == "exits":
            return self._exits_loss(inputs)
        if self.stage == JOINT:
            return self._joint_loss(inputs)
        soft = self.stage == "soft"
        outputs = model(**inputs, soft_temperature=self.soft_temperature if soft else None)
        total: Tensor = outputs.loss
        if self._teacher is not None:
            with torch.no_grad():
                taught = self._teacher(**{name: tensor for name, tensor in inputs.items() if name != "labels"})
            total = self._distillation_loss(outputs.logits[:, None], taught.logits, inputs.get("labels"))
        elif self._weights is not None:
            total = class_loss(outputs.logits, inputs["labels"], self._weights)
        if soft:
            total = total + self.keep_penalty * self._share_kept(outputs.tokens_kept, inputs)
        return (total, outputs) if return_outputs else total

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches; of the collected states in ``exits``."""
        if self.cached_exits is None:
            batches: DataLoader[Any] = super().get_train_dataloader()
            return batches
        # The data set gives whole batches (`__getitems__`), so there is nothing left to collate.
        collate: Any = _as_it_is
        loader = DataLoader(self.cached_exits, batch_size=self.args.train_batch_size, shuffle=True, collate_fn=collate)
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as usual, and in ``soft`` and ``joint`` the share of tokens kept at the last step."""
        if self._kept_share is not None and "loss" in logs:
            logs = {**logs, "kept": round(self._kept_share, 4)}
        super().log(logs, *args, **kwargs)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0 in ``exits``, whose batches have no tokens; otherwise the usual estimate."""
        return 0 if self.cached_exits is not None else int(super().floating_point_ops(inputs))

    def _pruner_parameters(self) -> list[torch.nn.Parameter]:
        pruner = self.model.token_pruner
        return [] if pruner is None else list(pruner.parameters())

    def _share_kept(self, tokens_kept: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Return the mean over samples and pruning layers of the share of live tokens kept, scalar; it is logged."""
        mask = inputs.get("attention_mask")
        lengths = torch.full_like(tokens_kept[:, 0], inputs["input_ids"].shape[1]) if mask is None else mask.sum(1)
        pruning = [depth - 1 for depth in self.model.config.pruning_depths]
        share = (tokens_kept[:, pruning] / lengths[:, None]).mean()
        self._kept_share = share.item()
        return share

    def _exits_loss(self, collected: Mapping[str, Any], logits: Tensor | None = None) -> Tensor:
        """Return the loss of the internal classifiers and of a learned criterion.

        Args:
            collected: what the exits read, and the answers of the last layer, without gradients but for ``logits``.
            logits: of the classifiers, ``[n, exits, labels]``; by default what they give for ``collected``.
        """
        labels = collected.get("labels")
        if logits is None:
            logits = self.model.internal_classifiers.every_depth(collected["pooled"])
        loss = self._distillation_loss(logits, collected["teacher_logits"], labels)
        # The criterion learns from the answers and does not change them, so the two losses don't compete.
        own: Tensor | None = self.model.exit_criterion.training_loss(
            collected, logits.detach(), self._problem_type(labels)
        )
        return loss if own is None else loss + own

    def _joint_loss(self, inputs: dict[str, Any]) -> Tensor:
        """Return the losses of the last layer, of the exits, and of the tokens kept, in one pass."""
        model, labels = self.model, inputs.get("labels")
        batch = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        prunes = bool(model.config.pruning_depths)
        # Trainer runs `forward` in mixed precision, and this is not it.
        with self.accelerator.autocast():
            states = model.exit_states(soft_temperature=self._hardening() if prunes else None, **batch)
            # The lexical classifier is solved for at the end, so that here the states answer by themselves.
            own = model.internal_classifiers.own_answers(states.pooled)
        collected = {"pooled": states.pooled.detach(), "teacher_logits": states.logits.detach().float()}
        if labels is not None:
            collected["labels"] = labels
        total = self._exits_loss(collected, own.float())
        if labels is not None:
            total = total + classification_loss(states.logits.float(), labels, model.config, self._weights)
        return total + self.keep_penalty * self._share_kept(states.kept, inputs) if prunes else total

    def _hardening(self) -> float:
        """Return the temperature of the soft masks at the present step of ``joint``."""
        done: float = self.state.global_step / max(1, self.state.max_steps)
        return self.soft_temperature * (1 - (1 - _LAST_TEMPERATURE) * done)

    def _distillation_loss(self, logits: Tensor, teacher_logits: Tensor, labels: Tensor | None) -> Tensor:
        return distillation_loss(
            logits,
            teacher_logits,
            labels,
            problem_type=self._problem_type(labels),
            weight=self.distillation_weight,
            temperature=self.distillation_temperature,
            class_weights=self._weights,
        )

    def _weights_of_classes(self) -> Tensor | None:
        labels = torch.empty(0, dtype=torch.int64)
        if self.class_weights == "balanced":
            # Reading the labels draws a random number, which must not change the order of training.
            with torch.random.fork_rng(devices=[]):
                batches = self.get_test_dataloader(self.train_dataset)
                labels = torch.cat([batch["labels"].flatten().cpu() for batch in batches])
        return weights_of_classes(self.class_weights, labels, self.model.config.num_labels)

    def _problem_type(self, labels: Tensor | None) -> str:
        config = self.model.config
        if config.problem_type is not None:
            return str(config.problem_type)
        if is_regression(config):
            return "regression"
        many = labels is not None and labels.is_floating_point()
        return "multi_label_classification" if many else "single_label_classification"

    def _prepare_exits(self) -> None:
        cached = self.cached_exits = self._collected()
        self._solve_lexical(cached, unseen=True)
        self._standardise(cached)

    def _prepare_hard(self) -> None:
        if self.distillation_weight > 0 and isinstance(self.model, MagicPyramidForSequenceClassification):
            self._teacher = copy.deepcopy(self.model).eval().requires_grad_(False)
            self._teacher.set_speed(0.0)

    def _prepare_joint(self) -> None:
        self._standardise(self._collected(_SCALE_TEXTS))

    def _standardise(self, cached: CachedExits) -> None:
        for judge in (self.model.internal_classifiers.standardise, self.model.exit_criterion.prepare):
            judge(cached.columns["pooled"])

    def _fit_opinions(self) -> None:
        columns = self._collected(data=self.calibration_dataset).columns

        def loss(logits: Tensor) -> Tensor:
            labels = columns.get("labels")
            # Where there are labels, they alone: the last layer may be wrong more often than an exit.
            return distillation_loss(
                logits, columns["teacher_logits"], labels, problem_type=self._problem_type(labels), weight=0.0,
                temperature=1.0,
            )  # fmt: skip

        classifiers = self.model.internal_classifiers.cpu()
        fit_opinions(classifiers, columns["pooled"], loss)
        classifiers.to(self.model.device)

    def _collected(self, texts: int | None = None, data: Any = None) -> CachedExits:
        """Return what the exits read of ``data``, by default the training data, or of about its first ``texts``."""
        batches = self.get_test_dataloader(self.train_dataset if data is None else data)
        few = None if texts is None else -(-texts // self.args.eval_batch_size)
        # In the precision of the training arguments, in which this pass takes half the time on many processors.
        with self.accelerator.autocast():
            return collect_exit_states(
                self.model, islice(batches, few), description="states for the internal classifiers"
            )

    def _solve_lexical(self, cached: CachedExits, *, unseen: bool = False) -> None:
        """Solve for the lexical classifier.

        Args:
            cached: of the training data.
            unseen: replace the lexical logits in it by what one says of texts it has not seen, so that the internal
                classifiers learn beside it. Together they would lean on words that are right by chance.
        """
        classifier = self.model.lexical_classifier
        if classifier is None or cached.token_ids is None:
            return
        columns = cached.columns

        def loss(logits: Tensor, rows: Tensor) -> Tensor:
            labels = columns.get("labels")
            return self._distillation_loss(
                logits[:, None], columns["teacher_logits"][rows], None if labels is None else labels[rows]
            )

        bags = weigh_texts(classifier, cached.token_ids, columns["attended"][:, 0])
        if unseen:
            logits = cross_fitted_logits(classifier, bags, loss)
            columns["pooled"][:, :, -logits.shape[1] :] = logits[:, None]
        fit_lexical(classifier, bags, loss)

    @contextmanager
    def _stage_settings(self) -> Iterator[None]:
        """Freeze what the stage does not train and set how the model runs; put both back at the end."""
        model, config = self.model, self.model.config
        if self.stage == "soft" and not config.pruning_depths:
            raise argument_error("stage", "must not be 'soft' for a model without pruning layers", "'soft'", "skip it")
        if self.stage == "soft" and not self._pruner_parameters():
            rule = f"must not be 'soft' for the pruner {config.token_pruner!r}, which learns nothing"
            raise argument_error("stage", rule, "'soft'", "skip it")
        if self.stage in ("exits", JOINT) and not config.exit_depths:
            rule = f"must not be {self.stage!r} for a model without exit layers"
            raise argument_error("stage", rule, repr(self.stage), "skip it")
        frozen = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        # Trained further, it is another model.
        config.speed_table = None
        keep_scale = config.keep_scale
        config.keep_scale = {"finetune": 0.0, "soft": 1.0, "hard": 1.0, JOINT: 1.0}.get(self.stage, keep_scale)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen[name] and _part_of(name) in _TRAINED[self.stage])
        try:
            yield
        finally:
            config.keep_scale = keep_scale
            self.cached_exits = self._teacher = None
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(frozen[name])


def _regroup(optimizer: torch.optim.Optimizer, own: list[torch.nn.Parameter], rate: float, decay: float) -> None:
    """Move the parameters ``own`` to a new last group of ``optimizer``; those that it does not train stay out."""
    if not own:
        return
    ids = {id(parameter) for parameter in own}
    moved: list[torch.nn.Parameter] = []
    for group in optimizer.param_groups:
        moved += [parameter for parameter in group["params"] if id(parameter) in ids]
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
    optimizer.add_param_group({"params": moved, "lr": rate, "weight_decay": decay})


def _part_of(parameter_name: str) -> str:
    parts = {"token_pruner": "pruner", "internal_classifiers": "classifiers", "exit_criterion": "criterion"}
    return parts.get(parameter_name.partition(".")[0], "backbone")


def _as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


def _check_positive(argument: str, value: float) -> None:
    if not value > 0:
        raise argument_error(argument, "must be positive", value, "leave it out for the default")
