"""Memorisation: does a synthetic case copy a training image, does the set keep too close to it, does the model betray its members?"""
