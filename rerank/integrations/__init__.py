"""Rerankers as parts of other people's frameworks, one module each.

Nothing imports these modules but their users: each brings its framework with it.
"""
