"""Rules that recognize a doomed run from its history: pure, without a model, one file per theme."""
