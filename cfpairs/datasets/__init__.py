"""Sources on disk and the manifest they give."""
