"""Counterfactual pairs: curate them, measure their quality, probe without the shortcut."""
