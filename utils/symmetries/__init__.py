"""The permutation symmetries of any network, found by running it (`spec.permutation_spec`) and proved (`proof`)."""
