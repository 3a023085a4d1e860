"""Experiments on what the mixers can learn, next to attention and recurrent baselines.

``python -m experiments NAME`` runs an experiment. A new one is a class and an entry of the table; its module
is imported when it is asked for.
"""

EXPERIMENTS: dict[str, str] = {
    "recall": "recall:Recall",
    "recall_rewritten": "recall:RewrittenRecall",
    "language": "language:Language",
    "language_time": "language:LanguageInTime",
    "language_long": "language:LongLanguage",
    "language_muon": "language_muon:LanguageWithMuon",
    "positions": "positions:Positions",
    "positions_long": "positions:LongPositions",
    "tracking": "tasks:Tracking",
    "mad": "tasks:Mad",
    "ablation_recall": "recall:AblatedRecall",
    "ablation_language": "language:AblatedLanguage",
    "lra": "lra:LongRangeArena",
    "lra_brief": "lra:BriefArena",
    "images": "images:Images",
    "ablation_paper": "images:PaperAblation",
}
"""Name to module and class. The report keeps this order."""
