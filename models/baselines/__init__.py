"""Methods to compare P-IEANet with."""
