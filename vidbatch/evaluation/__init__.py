"""A model and labelled videos in; how right it is, as tables, numbers and pictures, out.

config.py  what a user can set     scores.py  truth and probabilities -> numbers, by scikit-learn
run.py     label, compare, write   charts.py  numbers -> pictures, by matplotlib
"""
