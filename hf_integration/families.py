"""The architectures that come with this package."""

from __future__ import annotations

from hf_integration.bert_families import AlbertFamily, BertFamily, DistilBertFamily, ElectraFamily, RobertaFamily
from hf_integration.model_family import ModelFamily
from hf_integration.modernbert_family import ModernBertFamily
from hf_integration.relative_families import DebertaV2Family, MPNetFamily

__all__ = ["FAMILIES"]

FAMILIES: tuple[ModelFamily, ...] = (
    BertFamily("bert", "Bert", ("bert.pooler.", "classifier.")),
    BertFamily("ernie", "Ernie", ("ernie.pooler.", "classifier."), ("token_type_ids", "task_type_ids")),
    RobertaFamily("roberta", "Roberta", ("classifier.",)),
    RobertaFamily("xlm-roberta", "XLMRoberta", ("classifier.",)),
    RobertaFamily("camembert", "Camembert", ("classifier.",)),
    ElectraFamily("electra", "Electra", ("classifier.",)),
    AlbertFamily("albert", "Albert", ("albert.pooler.", "classifier.")),
    DistilBertFamily("distilbert", "DistilBert", ("pre_classifier.", "classifier."), ()),
    MPNetFamily("mpnet", "MPNet", ("classifier.",), ()),
    DebertaV2Family("deberta-v2", "DebertaV2", ("pooler.", "classifier.")),
    ModernBertFamily("modernbert", "ModernBert", ("head.", "classifier."), ()),
)
