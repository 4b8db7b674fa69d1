"""Scores of a pipeline, by stated rules: `evaluate(pipeline, task="vqa")["accuracy"]`."""

from saccade.evaluation.run import RULES, TASKS, choose_threshold, environment, evaluate, merge

__all__ = ["RULES", "TASKS", "choose_threshold", "environment", "evaluate", "merge"]
