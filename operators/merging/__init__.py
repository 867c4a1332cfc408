"""Operators over several parents: the first step of a variant written (parent+parent)~operator.

They follow the contract of operators/__init__.py, but `decide` is given a tuple of models, and

    PARENTS        (fewest, most) models
    BASED          True where the first parent is the checkpoint that the others were fine-tuned from
    NEUTRAL        params with which the merge of equal parents is that model
"""
