"""Experiments on what the mixers can learn, beside attention and recurrent baselines.

An experiment is a file here and a line in the table; ``python -m experiments NAME`` runs it. Its class is
imported when it is asked for.
"""

EXPERIMENTS: dict[str, str] = {
    "recall": "Recall",
    "recall_rewritten": "RewrittenRecall",
    "language": "Language",
    "language_time": "LanguageInTime",
    "language_long": "LongLanguage",
    "positions": "Positions",
    "positions_long": "LongPositions",
    "tracking": "Tracking",
    "mad": "Mad",
    "ablation_recall": "AblatedRecall",
    "ablation_language": "AblatedLanguage",
    "lra": "LongRangeArena",
    "lra_brief": "BriefArena",
    "images": "Images",
    "ablation_paper": "PaperAblation",
}
"""Module of this folder to the class in it; the report keeps this order."""
