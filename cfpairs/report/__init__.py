"""One page of findings: plain data first, then its renderings."""
