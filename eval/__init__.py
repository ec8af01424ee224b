"""Evaluation: trec_eval-exact measures with one stated policy."""
