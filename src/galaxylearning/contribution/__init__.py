"""What every data owner's update was worth, with standard errors, and the references it is held against."""

from galaxylearning.contribution.credit import charge, counted, handed_down
from galaxylearning.contribution.games import (
    Game,
    GameValues,
    coalition_game,
    distance_to_mean,
    exact_banzhaf,
    exact_shapley,
    leave_one_out,
    sampled_banzhaf,
    sampled_shapley,
    size_value,
)
from galaxylearning.contribution.luck import UNEARNED, UNEARNED_LATER, unearned
from galaxylearning.contribution.measure import FixedPointUtility, from_fixed, saturated, to_fixed
from galaxylearning.contribution.path import GradientBlocks, PathScorer, PathValue, path_value
from galaxylearning.contribution.registry import OTHER_UNITS, VALUES, RoundView, value_named
from galaxylearning.contribution.scalars import UnitErrors, values_of_scalars
from galaxylearning.contribution.tables import median_table, merge_twins
from galaxylearning.contribution.twins import (
    MAX_PLAYERS,
    SentUpdates,
    TwinEvidence,
    lasting_difference,
    twin_evidence,
    twin_groups,
    twin_projections,
)

__all__ = [
    "MAX_PLAYERS",
    "OTHER_UNITS",
    "UNEARNED",
    "UNEARNED_LATER",
    "VALUES",
    "FixedPointUtility",
    "Game",
    "GameValues",
    "GradientBlocks",
    "PathScorer",
    "PathValue",
    "RoundView",
    "SentUpdates",
    "TwinEvidence",
    "UnitErrors",
    "charge",
    "coalition_game",
    "counted",
    "distance_to_mean",
    "exact_banzhaf",
    "exact_shapley",
    "from_fixed",
    "handed_down",
    "lasting_difference",
    "leave_one_out",
    "median_table",
    "merge_twins",
    "path_value",
    "sampled_banzhaf",
    "sampled_shapley",
    "saturated",
    "size_value",
    "to_fixed",
    "twin_evidence",
    "twin_groups",
    "twin_projections",
    "unearned",
    "value_named",
    "values_of_scalars",
]
